"""The sections of the frontiers in docs/experiments.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .frontier_plans import FRONTIERS


def frontier_section(name: str, results: Path) -> str:
    """The section of a frontier; says how to run the experiment if there are no results."""
    plan, file = FRONTIERS[name], results / f"{name}.json"
    parts = [f"## {plan.title}", plan.question]
    if not file.is_file():
        return "\n\n".join([*parts, f"Not run yet: `make experiment-{name}` runs it."]) + "\n"
    content = json.loads(file.read_text())
    if plan.finding:
        parts.append(plan.finding)
    shares = sorted({cell["share"] for row in content["rows"] for cell in row["cells"]})
    for reference in ("vqascore", "truth"):
        parts.append(
            f"Recovered gain by `{reference}`, {content['prompts']} prompts x {content['candidates']}, by budget:"
        )
        parts.append(_table(content["rows"], reference, shares))
    parts.append(
        "What one keeps by `vqascore` that knows the final `vqascore`, but may drop candidates at one position only:"
    )
    parts.append(_table(content["oracle"], "vqascore", shares))
    parts.append("The policy that most folds chose, and its mean cost on held-out prompts:")
    parts.append(_policies(content["rows"], shares))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[dict[str, Any]], reference: str, shares: Sequence[float]) -> str:
    lines = _head(shares)
    for row in rows:
        cells = {cell["share"]: cell["recovered_gain"] for cell in row["cells"] if cell["reference"] == reference}
        lines.append(f"| {row['row']} | " + " | ".join(cell_text(cells.get(share)) for share in shares) + " |")
    return "\n".join(lines)


def _policies(rows: Sequence[dict[str, Any]], shares: Sequence[float]) -> str:
    lines = _head(shares)
    for row in rows:
        cells = {cell["share"]: f"`{cell['policies'][0]}` {cell['spent']:.3f}" for cell in row["cells"]}
        lines.append(f"| {row['row']} | " + " | ".join(cells.get(share, "") for share in shares) + " |")
    return "\n".join(lines)


def _head(shares: Sequence[float]) -> list[str]:
    return [f"| | {' | '.join(f'{share:.0%}' for share in shares)} |", "|---|" + "---|" * len(shares)]


def cell_text(figure: list[float] | None) -> str:
    """Mean, low and high end of an interval, as in `.84 (.74 to .94)`."""
    if figure is None:
        return ""
    mean, low, high = (f"{value:.2f}".replace("0.", ".", 1) for value in figure)
    return f"{mean} ({low} to {high})"
