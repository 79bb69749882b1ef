"""Result files as one leaderboard: one line per model and bench, best first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...console import table_text
from ...errors import NbenchError
from ..metrics.catalogue import ROW_FIGURES
from ..metrics.model_figures import YARDSTICK
from ..metrics.rows import ResultRow
from .cells import whole, with_ends
from .groups import VALUES, Contest, contest, prompt_values
from .result_file import EvaluationResult, read_result
from .yardsticks import yardstick_lines

_Row = tuple[Path, EvaluationResult, ResultRow]


@dataclass(frozen=True)
class Line:
    """A model on a bench, at one position and one reference; figures and intervals by their names in `ROW_FIGURES`.

    yardstick: not a model, but what a random pick, final-image selection or the reference itself reaches. group: models
    of a bench and reference that share a letter cannot be told apart; "" where that was not tested.
    """

    model: str
    bench: str
    position: int
    reference: str
    yardstick: bool
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    group: str = ""


@dataclass(frozen=True, repr=False)
class Leaderboard:
    """Lines per bench, best first; left_out: which files have no line, and why; notes: what readers should know.

    contests: the paired tests behind the groups, by bench and reference.
    """

    sort: str
    lines: tuple[Line, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    contests: Mapping[tuple[str, str], Contest] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The figures that at least one line has."""
        return [name for name in ROW_FIGURES if any(name in line.figures for line in self.lines)]

    def __repr__(self) -> str:
        from .terminal import board_tables

        return "\n".join([table_text(board_tables(self)), *self.notes])


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
        sort: one of `ROW_FIGURES`; lines without it come last.
        position: the position to compare at. Default: of the positions that all models of a bench have, the one half
            way or the nearest before it; if there is none, each model is shown at its own.
        reference: the reference to compare on. Default: vqascore if a file has it, else its first.
        bench: the only bench to show.
        yardstick: the reference for final-image selection; results with another one are left out, because their gains
            are not comparable. Default, per bench and reference: clip if any result used it, else that of the first.

    Raises:
        NbenchError: no results, or none that matches.
    """
    if sort not in ROW_FIGURES:
        raise NbenchError(f"cannot sort by {sort!r}: there are {', '.join(ROW_FIGURES)}")
    left_out, lines = list[str](), list[Line]()
    results = list(_results(folder, left_out))
    if not results:
        raise NbenchError(f"no results in {folder}: run nbench evaluate{_why(left_out)}")
    chosen = [(path, result) for path, result in results if bench in (None, result.bench)]
    if not chosen:
        raise NbenchError(f"no results of {bench}: there are {', '.join(sorted({r.bench for _, r in results}))}")
    names = _bench_names([result for _, result in chosen])
    rows = list[_Row]()
    common = {
        build: common_position([result for _, result in chosen if (result.bench, result.bench_fingerprint) == build])
        for build in names
    }
    notes = [_apart(names[build]) for build, shared in common.items() if shared is None and position is None]
    for path, result in chosen:
        shared = common[result.bench, result.bench_fingerprint]
        row = _row(result, shared if position is None else position, reference)
        if isinstance(row, str):
            left_out.append(f"{path}: {row}")
        else:
            rows.append((path, result, row))
    choosers, yardsticks_added = _choosers(rows, yardstick), set()
    shown = dict[tuple[str, str], list[_Row]]()
    for path, result, row in rows:
        chooser, common_chooser = _chooser(result, row), choosers[result.bench_fingerprint, row.reference]
        if chooser not in (None, common_chooser):
            how = f"final-image selection by {chooser}, not {common_chooser}: evaluate it again, or give --yardstick"
            left_out.append(f"{path}: {how}")
            continue
        name = names[result.bench, result.bench_fingerprint]
        lines.append(_line(row, name))
        shown.setdefault((name, row.reference), []).append((path, result, row))
        mark = result.yardsticks.get(row.reference)
        if mark and (name, row.reference) not in yardsticks_added:
            yardsticks_added.add((name, row.reference))
            lines += [
                Line(f"({ref.name})", name, ref.position, row.reference, True, ref.figures, ref.intervals)
                for ref in yardstick_lines(mark, result.n_candidates, result.steps).values()
            ]
    if not lines:
        raise NbenchError(f"no result matches{_why(left_out)}")
    lines.sort(key=lambda line: (line.bench, line.reference, *_order(line, sort), line.model))
    contests = {key: held for key, entrants in shown.items() if (held := _contest(entrants, sort))}
    grouped = (
        line if line.yardstick or key not in contests else replace(line, group=contests[key].groups[line.model])
        for line in lines
        for key in [(line.bench, line.reference)]
    )
    return Leaderboard(sort, tuple(grouped), tuple(left_out), tuple(notes), contests)


def common_position(results: Sequence[EvaluationResult]) -> int | None:
    """Where to compare results of one bench: of their common positions the one half way, else the nearest before it,
    else the first after it; position 0, pure noise, only if there is no other. None if they have none in common."""
    places = [{row.position for row in result.rows} for result in results if result.rows]
    shared = set.intersection(*places) if places else set()
    later = sorted(shared - {0})
    before = [place for place in later if place <= results[0].steps // 2]
    return before[-1] if before else later[0] if later else min(shared, default=None)


def line_cell(line: Line, name: str, interval: bool = True) -> str:
    """A figure of a line as text; `interval`: with its interval in brackets."""
    if ROW_FIGURES[name].whole:
        return whole(line.figures.get(name))
    return with_ends(line.figures.get(name), line.intervals.get(name) if interval else None)


def _results(folder: Path, left_out: list[str]) -> Iterable[tuple[Path, EvaluationResult]]:
    if not folder.is_dir():
        raise NbenchError(f"no folder {folder}: give the one that nbench evaluate wrote results to")
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
    chosen = common_position([result]) if position is None else position
    if chosen not in by_position:
        return f"no position {chosen} (it has {', '.join(map(str, sorted(by_position)))})"
    return by_position[chosen]


def _contest(entrants: Sequence[_Row], figure: str) -> Contest | None:
    """Paired tests between the models of a bench and reference; None if their values per prompt are not all known."""
    if figure not in VALUES:
        return None
    values = {
        row.model: prompt_values(path, result, row.reference, row.position, figure) for path, result, row in entrants
    }
    known = {model: column for model, column in values.items() if column is not None}
    if len(known) < len(entrants) or len({len(column) for column in known.values()}) > 1:
        return None
    _, result, row = entrants[0]
    mark = result.yardsticks.get(row.reference)
    unit = 1.0
    if figure in ("retention", "recovered_gain"):
        if mark is None or mark.final is None or mark.random is None:
            return None
        unit = mark.final - (mark.random if figure == "recovered_gain" else 0)
    return contest(known, unit)


def _chooser(result: EvaluationResult, row: ResultRow) -> str | None:
    """What final-image selection of a result goes by; None if the result does not say."""
    mark = result.yardsticks.get(row.reference)
    return mark.chooser if mark else None


def _choosers(rows: Iterable[_Row], yardstick: str | None) -> dict[tuple[str, str], str | None]:
    """What final-image selection goes by in the results shown, by fingerprint of the bench and reference."""
    choosers_of: dict[tuple[str, str], list[str]] = {}
    for _, result, row in rows:
        choosers = choosers_of.setdefault((result.bench_fingerprint, row.reference), [])
        choosers += [chooser] if (chooser := _chooser(result, row)) else []
    return {
        key: yardstick or (YARDSTICK if YARDSTICK in choosers else next(iter(choosers), None))
        for key, choosers in choosers_of.items()
    }


def _apart(bench: str) -> str:
    why = "its models have no position in common, so each is shown at its own"
    return f"{bench}: {why}; evaluate them at the same --latents"


def _line(row: ResultRow, bench: str) -> Line:
    figures = {name: value for name in ROW_FIGURES if (value := getattr(row, name)) is not None}
    intervals = {name: ci for name in figures if (ci := getattr(row, f"{name}_ci", None)) is not None}
    return Line(row.model, bench, row.position, row.reference, False, figures, intervals)


def _bench_names(results: Iterable[EvaluationResult]) -> dict[tuple[str, str], str]:
    """The name to show for each build; builds of the same name get their fingerprints added."""
    builds = {(result.bench, result.bench_fingerprint) for result in results}
    names = [name for name, _ in builds]
    return {build: build[0] if names.count(build[0]) == 1 else f"{build[0]}@{build[1][:8]}" for build in builds}


def _order(line: Line, sort: str) -> tuple[bool, float]:
    value = line.figures.get(sort)
    if value is None:
        return (True, 0.0)
    return (False, -value if ROW_FIGURES[sort].higher_is_better else value)


def _why(left_out: list[str]) -> str:
    return f" ({left_out[0]}{f' and {len(left_out) - 1} more' if len(left_out) > 1 else ''})" if left_out else ""
