"""What the page's script reads: figures as tables with few columns, and as many trajectories as the page can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ...shards.reader import Bench
from ..results.result_file import EvaluationResult
from .inputs import Inputs, Scored, scored
from .trajectories import SIZES, Size, Trajectories, spread, trajectories

_FIGURES = (
    "spearman",
    "kendall",
    "pairwise_accuracy",
    "top1",
    "regret",
    "best_of_n",
    "retention",
    "recovered_gain",
    "oracle_gain",
    "misaligned_auroc",
)
_TABLES = {
    "rows": ("model", "position", "reference", "cost_steps", "n_scored", "n_unscored", *_FIGURES),
    "skills": ("model", "position", "reference", "level", "skill", "n_prompts", "spearman", "recovered_gain"),
    "separation": ("model", "position", "kind", "n_pairs", "auroc", "average_precision", "pairwise_accuracy"),
    "summaries": ("model", "reference", "gain_area"),
}
_DIGITS = 5
_MOST_POSITIONS = 101


def figures(inputs: Inputs) -> dict[str, Any]:
    """Everything but the trajectories."""
    results = [result for _, result in inputs.results]
    first = inputs.first
    yardsticks = {label: mark.model_dump() for result in results for label, mark in result.yardsticks.items()}
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
        "yardsticks": rounded(yardsticks),
        "made": [_made(result) for result in results],
        **{name: _columns(results, name, columns) for name, columns in _TABLES.items()},
    }


def viewer(inputs: Inputs, bench: Bench, count: int, room: int) -> dict[str, Any]:
    """At most `count` prompts with their trajectories, in `room` bytes of JSON.

    The pictures are as large as `count` prompts of the first one's size allow; what does not fit is left out.
    """
    places = [position for position in inputs.positions() if position in bench.info.stored]
    places = [places[index] for index in spread(places, _MOST_POSITIONS)]
    numbers = spread(bench.prompts, count)
    told = scored(inputs, bench, [bench.prompts[number].prompt_id for number in numbers])
    prompts: list[dict[str, Any]] = []
    size: Size | None = None
    for row, found in enumerate(trajectories(bench, numbers, places)):
        if size is None:
            size = _fitting(found, told, places, room // len(numbers))
        entry = _entry(found, told, row, places, size)
        room -= len(dumps(entry))
        if room < 0:
            break
        prompts.append(entry)
    return {"positions": places, "of": len(bench.prompts), "prompts": prompts}


def dumps(value: object) -> str:
    """JSON that may stand in a script element: no `<`, `>` or `&`, and no NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def rounded(value: Any) -> Any:
    """Numbers to five significant digits, null for those that are none; whatever lists and dicts they are in."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _fitting(found: Trajectories, told: Scored, places: Sequence[int], room: int) -> Size:
    """The largest size at which this prompt takes no more than its share of the room."""
    return next((size for size in SIZES if len(dumps(_entry(found, told, 0, places, size))) <= room), SIZES[-1])


def _entry(found: Trajectories, told: Scored, row: int, places: Sequence[int], size: Size) -> dict[str, Any]:
    """A prompt; `row`: its place in the scores."""
    sprites, prompt = found.sprites(size), found.prompt
    scores = {
        model: [by_position[k][row].tolist() if k in by_position else None for k in places]
        for model, by_position in told.models.items()
    }
    return {
        "id": prompt.prompt_id,
        "text": prompt.prompt,
        "present": found.present,
        "previews": sprites.previews,
        "preview_size": sprites.preview_size,
        "images": sprites.images,
        "image_size": sprites.image_size,
        "scores": rounded(scores),
        "references": rounded({label: values[row].tolist() for label, values in told.references.items()}),
    }


def _columns(results: Iterable[EvaluationResult], table: str, names: Sequence[str]) -> dict[str, Any]:
    """A table of all results; a figure's interval follows it as `<name>_low` and `<name>_high`."""
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
    return (name, f"{name}_low", f"{name}_high") if interval else (name,)


def _made(result: EvaluationResult) -> str:
    origin = result.provenance
    parts = (f"nbench {origin.nbench}", origin.device, origin.started, f"model {result.model_fingerprint[:12]}")
    return f"{result.model}: {', '.join(part for part in parts if part)}"
