"""The frontier's section of docs/experiments.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FRONTIER = "frontier"
_TITLE = "The frontier: gain at a cost"
_QUESTION = """How much of Best-of-6's gain is kept at 17 to 50 % of its cost, by which way to stop?

Full Best-of-6 finishes and decodes six images and scores them with CLIP. Policies are chosen on four fifths of the
prompts by `vqascore` and measured on the rest. Costs are denoiser calls, with scores and decodes counted by their
seconds in full batches (`nbench tune --measure`). Empty: no policy of this kind fits the budget."""
_FINDING = """\
With x0-vqa, drawing one candidate at a time and dropping it at 12 if it scores below .38 keeps .96 (.89 to 1.03) of
the gain by `vqascore` at 22 %; two at a time keep 1.01 (.95 to 1.08) at 25 %. Most prompts stop after the first draw,
so the calls go to those that need them. Fixed keeps reach that at 35 %. A race by chances is no better than fixed
keeps within the intervals (.81 and .76 at 25 %): it cannot tell a prompt whose candidates are all good. From 35 % on,
fixed keeps and races are ahead of restarts, which take the last of six candidates if none passes. By `truth`,
restarts keep .78 (.69 to .87) at 22 % and .84 (.75 to .94) at 25 %: x0-vqa was trained to predict `vqascore`, and the
policies were tuned by it. Position is no ceiling: one who knows the final score and acts at 3 keeps all of the gain
at 22 %. What scorers know at 3 is."""


def frontier_section(file: Path) -> str:
    """The section; says how to run the experiment if there are no results."""
    parts = [f"## {_TITLE}", _QUESTION]
    if not file.is_file():
        return "\n\n".join([*parts, f"Not run yet: `make experiment-{FRONTIER}` runs it."]) + "\n"
    content = json.loads(file.read_text())
    if _FINDING:
        parts.append(_FINDING)
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
