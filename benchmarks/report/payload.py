"""The data for the page's script: figures as narrow tables, and as many trajectories as the page can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import printable
from ...shards.positions import describe_positions
from ...shards.reader import Bench
from ..metrics.catalogue import CORE, COUNTS, METRICS, ROW_FIGURES
from ..metrics.declaration import Figure
from ..metrics.rows import Yardstick
from ..metrics.selection import COST_STEPS, GAIN_AREA
from ..metrics.separation import AUROC, AVERAGE_PRECISION, PREFERENCE
from ..results.leaderboard import common_position
from ..results.result_file import EvaluationResult
from ..results.yardsticks import yardstick_lines
from .inputs import Inputs, Scored, scored
from .trajectories import SIZES, Size, Trajectories, spread, trajectories

_SEPARATION = (AUROC, AVERAGE_PRECISION, PREFERENCE)
_FIRST = "recovered_gain"
_CORE = [*(METRICS[name] for name in sorted(CORE, key=lambda name: name != _FIRST)), COST_STEPS]
_LEADERBOARD = [
    *_CORE,
    *(figure for figure in (*METRICS.values(), GAIN_AREA, *COUNTS.values()) if figure not in _CORE),
]
_TABLES = {
    "rows": ("model", "position", "reference", *ROW_FIGURES),
    "skills": ("model", "position", "reference", "level", "skill", "n_prompts", "spearman", "recovered_gain"),
    "separation": ("model", "position", "kind", "n_pairs", *(figure.name for figure in _SEPARATION)),
    "summaries": ("model", "reference", GAIN_AREA.name),
}
_ENDS = ("low", "high")
_DIGITS = 5
_MOST_POSITIONS = 101


def figures(inputs: Inputs) -> dict[str, Any]:
    """All data but the trajectories."""
    results = [result for _, result in inputs.results]
    first = inputs.first
    yardsticks = {label: mark for result in results for label, mark in result.yardsticks.items()}
    return {
        "bench": first.bench,
        "fingerprint": first.bench_fingerprint,
        "n_prompts": first.n_prompts,
        "n_candidates": first.n_candidates,
        "n_failed": first.n_failed,
        "steps": first.steps,
        "models": [result.model for result in results],
        "references": list(dict.fromkeys(row.reference for result in results for row in result.rows)),
        "positions": inputs.positions(),
        "position": common_position(results),
        "lacking": _lacking(inputs),
        "figures": {figure.name: _shown(figure) for figure in (*_SEPARATION, *_LEADERBOARD)},
        "leaderboard": [figure.name for figure in _LEADERBOARD],
        "core": [figure.name for figure in _CORE],
        "measures": list(METRICS),
        "yardsticks": rounded({label: _yardsticks(mark, first) for label, mark in yardsticks.items()}),
        "made": [_provenance_line(result) for result in results],
        **{name: _columns(results, name, columns) for name, columns in _TABLES.items()},
    }


def viewer(inputs: Inputs, bench: Bench, count: int, room: int) -> dict[str, Any]:
    """At most `count` prompts with their trajectories, in `room` bytes of JSON.

    The pictures are as large as fits if each of the `count` prompts takes as much as the first; prompts that no longer
    fit are left out.
    """
    places = [position for position in inputs.positions() if position in bench.info.stored]
    places = [places[index] for index in spread(places, _MOST_POSITIONS)]
    numbers = spread(bench.prompts, count)
    scores = scored(inputs, bench, [bench.prompts[number].prompt_id for number in numbers])
    prompts: list[dict[str, Any]] = []
    size: Size | None = None
    for row, prompt in enumerate(trajectories(bench, numbers, places)):
        if size is None:
            size = _fitting(prompt, scores, places, room // len(numbers))
        entry = _entry(prompt, scores, row, places, size)
        room -= len(dumps(entry))
        if room < 0:
            break
        prompts.append(entry)
    return {"positions": places, "of": len(bench.prompts), "prompts": prompts}


def dumps(value: object) -> str:
    """JSON that is safe inside a script element: no `<`, `>` or `&`, and no NaN."""
    text = json.dumps(_readable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _readable(value: Any) -> Any:
    """Texts in nested lists and dicts without characters that change how others are shown."""
    if isinstance(value, str):
        return printable(value, keep="\n")
    if isinstance(value, dict):
        return {_readable(name): _readable(item) for name, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list | tuple) else value


def rounded(value: Any) -> Any:
    """Floats in nested lists and dicts rounded to five significant digits; null for NaN and infinity."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _lacking(inputs: Inputs) -> dict[str, str]:
    """The positions of each model that was not scored at all positions of the page, as short text."""
    scored_at = {result.model: {row.position for row in result.rows} for _, result in inputs.results}
    every = set(inputs.positions())
    return {model: describe_positions(sorted(places)) for model, places in scored_at.items() if places < every}


def _fitting(prompt: Trajectories, raw: Scored, places: Sequence[int], room: int) -> Size:
    """The largest size at which this prompt takes no more than its share of the room."""
    return next((size for size in SIZES if len(dumps(_entry(prompt, raw, 0, places, size))) <= room), SIZES[-1])


def _entry(trajectory: Trajectories, raw: Scored, row: int, places: Sequence[int], size: Size) -> dict[str, Any]:
    """The JSON of a prompt; row: its row in the scores."""
    sprites, prompt = trajectory.sprites(size), trajectory.prompt
    scores = {
        model: [by_position[k][row].tolist() if k in by_position else None for k in places]
        for model, by_position in raw.models.items()
    }
    return {
        "id": prompt.prompt_id,
        "text": prompt.prompt,
        "present": trajectory.present,
        "previews": sprites.previews,
        "preview_size": sprites.preview_size,
        "images": sprites.images,
        "image_size": sprites.image_size,
        "scores": rounded(scores),
        "references": rounded({label: values[row].tolist() for label, values in raw.references.items()}),
    }


def _shown(figure: Figure) -> dict[str, Any]:
    """The fields that the page needs to show a figure and sort by it."""
    return {name: getattr(figure, name) for name in ("heading", "higher_is_better", "whole")}


def _yardsticks(mark: Yardstick, result: EvaluationResult) -> list[dict[str, Any]]:
    """Lines of the leaderboard that are not models."""
    lines = []
    for line in yardstick_lines(mark, result.n_candidates, result.steps).values():
        ends = {f"{name}_{end}": x for name, ci in line.intervals.items() for end, x in zip(_ENDS, ci, strict=True)}
        lines.append({"model": line.name, "yardstick": True, **line.figures, **ends})
    return lines


def _columns(results: Iterable[EvaluationResult], table: str, names: Sequence[str]) -> dict[str, Any]:
    """A table over all results; the interval of a figure follows it as `<name>_low` and `<name>_high`."""
    rows = [row.model_dump() for result in results for row in getattr(result, table)]
    intervals = {f"{name}_ci" for row in rows[:1] for name in names if f"{name}_ci" in row}
    heads = [head for name in names for head in _heads(name, f"{name}_ci" in intervals)]
    values = []
    for row in rows:
        line: list[Any] = []
        for name in names:
            line.append(row[name])
            if f"{name}_ci" in intervals:
                line += row[f"{name}_ci"] or (None, None)
        values.append(line)
    return {"columns": heads, "values": rounded(values)}


def _heads(name: str, interval: bool) -> tuple[str, ...]:
    return (name, *(f"{name}_{end}" for end in _ENDS)) if interval else (name,)


def _provenance_line(result: EvaluationResult) -> str:
    origin = result.provenance
    parts = (f"nbench {origin.nbench}", origin.device, origin.started, f"model {result.model_fingerprint[:12]}")
    return f"{result.model}: {', '.join(part for part in parts if part)}"
