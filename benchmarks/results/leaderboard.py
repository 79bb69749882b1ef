"""Result files as one leaderboard: a line a model and bench, best first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import NbenchError
from ..metrics import cost_steps, recovered_gain, retention
from ..metrics.model_figures import YARDSTICK
from .result_file import EvaluationResult, ResultRow, Yardstick, read_result

COLUMNS = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "pearson": "Pearson",
    "pairwise_accuracy": "pairwise accuracy",
    "top1": "top-1",
    "regret": "regret",
    "gap": "gap",
    "best_of_n": "Best-of-N",
    "retention": "retention",
    "recovered_gain": "recovered gain",
    "oracle_gain": "oracle gain",
    "cost_steps": "steps",
    "n_scored": "scored",
    "n_unscored": "unscored",
}
"""What can be sorted by, and its heading."""

COUNTS = {"cost_steps", "n_scored", "n_unscored"}
"""Those that are whole numbers, without an interval."""

_LOWER_IS_BETTER = {"regret", "cost_steps", "n_unscored"}


@dataclass(frozen=True)
class Line:
    """A model on a bench, at one position by one reference; figures and intervals by the names in `COLUMNS`.

    yardstick: no model, but what a random pick, final-image selection or the reference itself would reach.
    """

    model: str
    bench: str
    position: int
    reference: str
    yardstick: bool
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Leaderboard:
    """Lines, bench by bench, best first; `left_out` says which files have none, and why."""

    sort: str
    lines: tuple[Line, ...]
    left_out: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that any line has."""
        return [name for name in COLUMNS if any(name in line.figures for line in self.lines)]


def leaderboard(
    folder: Path,
    sort: str = "spearman",
    position: int | None = None,
    reference: str | None = None,
    bench: str | None = None,
    yardstick: str | None = None,
) -> Leaderboard:
    """Read every result under `folder`.

    Args:
        sort: one of `COLUMNS`; what is unknown comes last.
        position: which to compare at. Default: half way, or the nearest before it that a file has.
        reference: which to compare by. Default: vqascore where a file has it, else its first.
        bench: the only one to show.
        yardstick: what final-image selection goes by; results that went by another are left out, since their gains are
            shares of another gain. Default: for each bench and reference clip where any result did, else the first's.

    Raises:
        NbenchError: nothing there, or nothing that was asked for.
    """
    if sort not in COLUMNS:
        raise NbenchError(f"cannot sort by {sort!r}: there are {', '.join(COLUMNS)}")
    left_out, lines = list[str](), list[Line]()
    results = list(_results(folder, left_out))
    if not results:
        raise NbenchError(f"no results in {folder}: run nbench evaluate{_why(left_out)}")
    wanted = [(path, result) for path, result in results if bench in (None, result.bench)]
    if not wanted:
        raise NbenchError(f"no results of {bench}: there are {', '.join(sorted({r.bench for _, r in results}))}")
    names = _bench_names([result for _, result in wanted])
    rows = list[tuple[Path, EvaluationResult, ResultRow]]()
    for path, result in wanted:
        row = _row(result, position, reference)
        if isinstance(row, str):
            left_out.append(f"{path}: {row}")
        else:
            rows.append((path, result, row))
    choosers, seen = _choosers(rows, yardstick), set()
    for path, result, row in rows:
        chooser, wanted_chooser = _chooser(result, row), choosers[result.bench_fingerprint, row.reference]
        if chooser not in (None, wanted_chooser):
            how = f"final-image selection by {chooser}, not {wanted_chooser}: evaluate it again, or give --yardstick"
            left_out.append(f"{path}: {how}")
            continue
        name = names[result.bench, result.bench_fingerprint]
        lines.append(_line(row, name))
        mark = result.yardsticks.get(row.reference)
        if mark and (name, row.reference) not in seen:
            seen.add((name, row.reference))
            lines += _yardsticks(mark, result, row, name)
    if not lines:
        raise NbenchError(f"no result has what was asked for{_why(left_out)}")
    lines.sort(key=lambda line: (line.bench, line.reference, *_order(line, sort), line.model))
    return Leaderboard(sort, tuple(lines), tuple(left_out))


def _results(folder: Path, left_out: list[str]) -> Iterable[tuple[Path, EvaluationResult]]:
    if not folder.is_dir():
        raise NbenchError(f"no folder {folder}: name the one that nbench evaluate wrote results to")
    for path in sorted(folder.rglob("*.json")):
        try:
            yield path, read_result(path)
        except NbenchError as error:
            left_out.append(str(error))


def _row(result: EvaluationResult, position: int | None, reference: str | None) -> ResultRow | str:
    """The row to show, or why there is none."""
    labels = list(dict.fromkeys(row.reference for row in result.rows))
    label = reference or ("vqascore" if "vqascore" in labels or not labels else labels[0])
    if label not in labels:
        return f"no reference {label} (it has {', '.join(labels) or 'none'})"
    by_position = {row.position: row for row in result.rows if row.reference == label}
    chosen = position
    if chosen is None:
        half = result.steps // 2
        chosen = max((k for k in by_position if k <= half), default=min(by_position))
    if chosen not in by_position:
        return f"no position {chosen} (it has {', '.join(map(str, sorted(by_position)))})"
    return by_position[chosen]


def _chooser(result: EvaluationResult, row: ResultRow) -> str | None:
    """What final-image selection of a result goes by; None where it does not say."""
    mark = result.yardsticks.get(row.reference)
    return mark.chooser if mark else None


def _choosers(
    rows: Iterable[tuple[Path, EvaluationResult, ResultRow]], named: str | None
) -> dict[tuple[str, str], str | None]:
    """What final-image selection goes by in the results shown, by fingerprint of the bench and reference."""
    there: dict[tuple[str, str], list[str]] = {}
    for _, result, row in rows:
        choosers = there.setdefault((result.bench_fingerprint, row.reference), [])
        choosers += [chooser] if (chooser := _chooser(result, row)) else []
    return {
        key: named or (YARDSTICK if YARDSTICK in choosers else next(iter(choosers), None))
        for key, choosers in there.items()
    }


def _line(row: ResultRow, bench: str) -> Line:
    figures = {name: value for name in COLUMNS if (value := getattr(row, name)) is not None}
    intervals = {name: ci for name in figures if (ci := getattr(row, f"{name}_ci", None)) is not None}
    return Line(row.model, bench, row.position, row.reference, False, figures, intervals)


def _yardsticks(mark: Yardstick, result: EvaluationResult, row: ResultRow, bench: str) -> Iterable[Line]:
    """What is reached without a model, where the file says it."""
    every = cost_steps(result.n_candidates, result.steps, result.steps)
    chooser = f" by {mark.chooser}" if mark.chooser else ""
    known = (
        ("(random pick)", mark.random, mark.random_ci, result.steps),
        (f"(final-image selection{chooser})", mark.final, mark.final_ci, every),
        ("(oracle)", mark.oracle, mark.oracle_ci, every),
    )
    for name, value, ci, cost in known:
        if value is None:
            continue
        random, final, oracle = (np.nan if x is None else x for x in (mark.random, mark.final, mark.oracle))
        shares = {
            "retention": retention(value, final),
            "recovered_gain": recovered_gain(value, random, final),
            "oracle_gain": recovered_gain(value, random, oracle),
        }
        figures = {"best_of_n": value, "cost_steps": float(cost)}
        figures |= {share: float(told) for share, told in shares.items() if np.isfinite(told)}
        position = 0 if name == "(random pick)" else result.steps
        yield Line(name, bench, position, row.reference, True, figures, {"best_of_n": ci} if ci else {})


def _bench_names(results: Iterable[EvaluationResult]) -> dict[tuple[str, str], str]:
    """What to call each build: benches of one name and different content are told apart by their fingerprints."""
    builds = {(result.bench, result.bench_fingerprint) for result in results}
    names = [name for name, _ in builds]
    return {build: build[0] if names.count(build[0]) == 1 else f"{build[0]}@{build[1][:8]}" for build in builds}


def _order(line: Line, sort: str) -> tuple[bool, float]:
    value = line.figures.get(sort)
    if value is None:
        return (True, 0.0)
    return (False, value if sort in _LOWER_IS_BETTER else -value)


def _why(left_out: list[str]) -> str:
    return f" ({left_out[0]}{f' and {len(left_out) - 1} more' if len(left_out) > 1 else ''})" if left_out else ""
