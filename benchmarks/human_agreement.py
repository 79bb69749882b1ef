"""Agreement of scores with human ratings of the same images: over all images, within prompts, and by skill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..builders.prompts.choose import read_prompts
from ..errors import NbenchError, reason_of
from ..shards.reader import Bench
from ..shards.schema import SKILL_LEVELS, Tags
from .metrics.arrays import Array, Indices
from .metrics.declaration import CI
from .metrics.pairs import STATISTICS, PairCounts, count_pairs, tie_threshold
from .metrics.statistics import bootstrap_ci, percentiles
from .results.place import local_results
from .score_tables.bench import finished_table
from .score_tables.layout import Layout, image_values, of_prompts
from .score_tables.table import RATINGS, ScoreTable, nothing_shared, read_score_table

HUMAN = "human"
"""The score table of a bench with human ratings of its images."""
ALL = "all"
"""The skill of every prompt."""

Skills = dict[str, frozenset[str]]
"""Ids of the prompts that need a skill, by its name; a name in `SKILL_LEVELS` covers every skill of that level."""


@dataclass(frozen=True)
class AgreementRow:
    """Agreement at one position (None: the scores have none) on the prompts of one skill, with 95 % intervals.

    scope: `overall`, every image against every other, as GenAI-Bench is reported; `within`, images of the same prompt,
    mean over prompts. tie_threshold: in the pairwise accuracy, scores that differ by at most this are tied (Deutsch et
    al. 2023); calibrated on all prompts.
    """

    position: int | None
    skill: str
    scope: str
    n_prompts: int
    n_images: int
    pearson: float | None
    pearson_ci: CI
    kendall: float | None
    kendall_ci: CI
    pairwise_accuracy: float | None
    pairwise_accuracy_ci: CI
    tie_threshold: float | None


@dataclass(frozen=True)
class HumanAgreement:
    """The rows; how many images have a rating; and how many of these have a score at every position."""

    n_rated: int
    n_scored: int
    rows: tuple[AgreementRow, ...]

    def to_json(self) -> str:
        """The one object that `nbench agreement --json` prints."""
        return json.dumps({**asdict(self), "rows": [asdict(row) for row in self.rows]})


@dataclass(frozen=True)
class _Rated:
    """R rated images, prompt by prompt: ids of the prompts, the index of each image's prompt [R], mean ratings [R]."""

    prompts: tuple[str, ...]
    of_prompt: Indices
    values: Array


def human_agreement(scores: ScoreTable, ratings: ScoreTable, skills: Skills | None = None) -> HumanAgreement:
    """Agreement of scores with ratings at every position that the scores have, by skill.

    Raises:
        NbenchError: no image has both a score and a rating, an image has two of either, or no rated prompt has a skill.
    """
    rated, table = _joined(scores, ratings)
    n_scored = int(np.isfinite(np.stack(list(table.values()))).all(0).sum())
    groups = {ALL: np.ones(len(rated.prompts), bool)} | _groups(skills or {}, rated)
    rows = [row for position, values in table.items() for row in _at(position, values, rated, groups)]
    return HumanAgreement(len(rated.values), n_scored, tuple(rows))


def _joined(scores: ScoreTable, ratings: ScoreTable) -> tuple[_Rated, dict[int | None, Array]]:
    """The rated images, and their scores [R] by position (None if the scores have none); NaN for a missing score."""
    ratings = ratings.finals()
    layout = Layout.flat(ratings, scores)
    values = image_values(ratings, layout)
    is_rated = np.isfinite(values)
    if not is_rated.any():
        raise NbenchError(f"{ratings.place} has no rating: it needs at least one")
    ids, of_prompt = np.unique(layout.pairs[is_rated] // len(layout.images), return_inverse=True)
    rated = _Rated(tuple(layout.prompts.take(ids).to_pylist()), of_prompt, values[is_rated])
    table: dict[int | None, Array] = {}
    if scores.positions is None:
        table[None] = image_values(scores.of_prompts(), layout)[is_rated]
    else:
        table |= {position: array[is_rated] for position, array in of_prompts(scores, layout).items()}
    if not any(np.isfinite(array).any() for array in table.values()):
        raise nothing_shared(scores, ratings, layout.column)
    return rated, table


def bench_skills(bench: Bench) -> Skills:
    """The skills of a bench's prompts."""
    return _by_skill((prompt.prompt_id, prompt.tags) for prompt in bench.prompts)


def read_skills(path: Path) -> Skills:
    """Skills from a table of prompts with tags, or from JSON such as GenAI-Bench's: skills with their prompts' numbers.

    Raises:
        NbenchError: the file is neither, or cannot be read.
    """
    if path.suffix.lower() != ".json":
        return _by_skill((prompt.id, prompt.tags) for prompt in read_prompts(path))
    try:
        content = json.loads(path.read_bytes())
        return {str(skill): frozenset(map(_plain_id, numbers)) for skill, numbers in content.items() if skill != ALL}
    except OSError as error:
        raise NbenchError(f"cannot read {path}: {reason_of(error)}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise NbenchError(f'{path} has no skills: write JSON like {{"counting": [0, 7, 12]}}') from None


def open_inputs(scores: str, ratings: Path | None, bench: Bench | None) -> tuple[ScoreTable, ScoreTable]:
    """The scores and ratings to compare: files, or tables of a bench by name; `HUMAN` if `ratings` is None.

    Raises:
        NbenchError: missing, of another bench, or of other images than the rated ones.
    """
    if bench is not None:
        _require_published(bench)
    table = (
        read_score_table(local_results(scores))
        if bench is None or Path(scores).suffix
        else finished_table(bench, scores)
    )
    _require_same(bench, table)
    if ratings is not None:
        return table, read_score_table(ratings, RATINGS)
    if bench is None:
        raise NbenchError("no ratings: give a table of them, or --bench with a bench that has them")
    return table, finished_table(bench, HUMAN)


def _require_same(bench: Bench | None, table: ScoreTable) -> None:
    build, place = table.metadata.get("bench_fingerprint"), table.place
    if bench is None and build is not None:
        raise NbenchError(
            f"{place} scores the images of a bench: give it with --bench, to check that they are the rated ones"
        )
    if bench is not None and build not in (None, bench.info.fingerprint):
        raise NbenchError(f"{place} scores another build than {bench.location.url}: score this one")


def _require_published(bench: Bench) -> None:
    """Refuse generated images: only published ones can have human ratings."""
    if bench.info.spec.get("process") != "forward":
        raise NbenchError(
            f"{bench.location.url} has generated images, which nobody rated: ratings belong to the published images "
            "(nbench build --process forward --images ...)"
        )


def _at(
    position: int | None, values: Array, ratings: _Rated, groups: Mapping[str, np.ndarray]
) -> Iterable[AgreementRow]:
    scored = np.isfinite(values)
    ids, prompts = np.unique(ratings.of_prompt[scored], return_inverse=True)
    x, y = values[scored], ratings.values[scored]
    for scope in ("overall", "within"):
        limit = tie_threshold(x, y, prompts, within=scope == "within")
        counts = count_pairs(x, y, prompts, limit)
        for skill, prompts_of_skill in groups.items():
            chosen = np.flatnonzero(prompts_of_skill[ids])
            if len(chosen):
                yield _row(position, skill, scope, counts.of(chosen), limit)


def _row(position: int | None, skill: str, scope: str, counts: PairCounts, limit: float) -> AgreementRow:
    if scope == "within":
        values, low, high = bootstrap_ci(counts.within())
    else:
        values = counts.overall()
        low, high = percentiles(counts.resampled())
    if len(counts.moments) < 2:  # nothing to draw from
        low = high = np.full(len(STATISTICS), np.nan)
    figures: dict[str, float | None] = {}
    intervals: dict[str, CI] = {}
    for name, value, lower, upper in zip(STATISTICS, values, low, high, strict=True):
        figures[name] = float(value) if np.isfinite(value) else None
        intervals[f"{name}_ci"] = (float(lower), float(upper)) if np.isfinite([lower, upper]).all() else None
    return AgreementRow(
        position=position,
        skill=skill,
        scope=scope,
        n_prompts=len(counts.moments),
        n_images=int(counts.moments[:, 0].sum()),
        pearson=figures["pearson"],
        pearson_ci=intervals["pearson_ci"],
        kendall=figures["kendall"],
        kendall_ci=intervals["kendall_ci"],
        pairwise_accuracy=figures["pairwise_accuracy"],
        pairwise_accuracy_ci=intervals["pairwise_accuracy_ci"],
        tie_threshold=limit if np.isfinite(limit) else None,
    )


def _groups(skills: Skills, ratings: _Rated) -> dict[str, np.ndarray]:
    """Which of the rated prompts need each skill, the levels first."""
    ids = [_plain_id(prompt) for prompt in ratings.prompts]
    ordered = sorted(skills, key=lambda skill: (skill not in SKILL_LEVELS, skill))
    groups = {skill: np.array([prompt in skills[skill] for prompt in ids]) for skill in ordered}
    if groups and not any(prompts.any() for prompts in groups.values()):
        some = next(iter(next(iter(skills.values()), ())), "none")
        called = f"e.g. {ratings.prompts[0]!r} in the ratings, {some!r} in the tags"
        raise NbenchError(f"no rated prompt has a skill ({called}): give both the same ids")
    return {skill: prompts for skill, prompts in groups.items() if prompts.any()}


def _by_skill(prompts: Iterable[tuple[str, Tags | None]]) -> Skills:
    ids_of_skill: dict[str, set[str]] = {}
    for prompt_id, tags in prompts:
        for level, names in (tags or {}).items():
            for name in {level, *names} if names else ():
                ids_of_skill.setdefault(name, set()).add(_plain_id(prompt_id))
    return {skill: frozenset(ids) for skill, ids in ids_of_skill.items()}


def _plain_id(value: object) -> str:
    """An id without leading zeros: some tables write 12, others 00012."""
    text = str(value)
    return str(int(text)) if text.isdecimal() and len(text) < 100 else text
