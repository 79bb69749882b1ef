"""docs/experiments.md, from the figures of the experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .data import SEEDS
from .frontier_page import cell_text, frontier_section
from .frontier_plans import FRONTIERS
from .plans import EXPERIMENTS, Experiment

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
_HEAD = f"""# Experiments

What pays off in the embedded world, measured. `make experiments` runs everything that is missing and writes this page;
`make experiment-NAME` runs one. Results are JSON in `experiments/results/`.

A cell is the recovered gain of Best-of-6 at a position, (selected - random) / (finished - random), where final-image
selection is by frozen CLIP: 0 is a random pick, 1 is as good as waiting for the finished images. Behind it is the 95 %
bootstrap interval over prompts. A trained model's figures are means over {SEEDS} seeds. `vqascore` is the world's VQA
model; `truth` is 1 if the image shows exactly its caption, told from its pixels without a model. The prompts of the
benches are held out of all training. A star marks scorers that cost one more denoiser step per candidate. The embedded
world draws 32x32 scenes of shapes: expect the order of methods, not the numbers, to carry over to real models.
"""


def write_page() -> None:
    """Write the page."""
    sections = [_section(name, experiment) for name, experiment in EXPERIMENTS.items()]
    frontiers = [frontier_section(name, RESULTS) for name in FRONTIERS]
    PAGE.write_text("\n".join([_HEAD, *sections, *frontiers]))


def _section(name: str, experiment: Experiment) -> str:
    file = RESULTS / f"{name}.json"
    parts = [f"## {experiment.title}", experiment.question]
    if not file.is_file():
        return "\n\n".join([*parts, f"Not run yet: `make experiment-{name}` runs it."]) + "\n"
    content = json.loads(file.read_text())
    if experiment.finding:
        parts.append(experiment.finding)
    size = f"{content['prompts']} prompts x {content['candidates']}"
    for reference in experiment.references:
        parts.append(f"Recovered gain by `{reference}`, {size}:")
        parts.append(_table(content["rows"], reference, experiment.positions, "recovered_gain"))
    parts.append(f"Mean Spearman within prompts with `{experiment.references[-1]}`:")
    parts.append(_table(content["rows"], experiment.references[-1], experiment.positions, "spearman"))
    missing = [run.row for run in experiment.runs if run.row not in {row["row"] for row in content["rows"]}]
    if missing:
        parts.append(f"Not run yet (`make experiment-{name}` runs them): {'; '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict[str, Any]], reference: str, positions: tuple[int, ...], figure: str) -> str:
    lines = [f"| | {' | '.join(map(str, positions))} |", "|---|" + "---|" * len(positions)]
    for row in rows:
        cells = {cell["position"]: cell[figure] for cell in row["cells"] if cell["reference"] == reference}
        label = row["row"] if row["seeds"] in (0, SEEDS) else f"{row['row']} ({row['seeds']} of {SEEDS} seeds)"
        lines.append(f"| {label} | " + " | ".join(cell_text(cells.get(position)) for position in positions) + " |")
    return "\n".join(lines)
