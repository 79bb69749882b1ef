"""One model against one reference: per-prompt values at all positions, and the figures computed from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import NbenchError
from ...shards.schema import Tags
from ...shards.signals import extra_calls
from .agreement import calibrated_pairs
from .arrays import Array, Indices, at_once, paired
from .catalogue import METRICS
from .declaration import CI, Cell, Pooled, or_none
from .prompt_values import Columns, with_interval
from .rows import ResultRow, SelectionRow, SkillRow, Summary
from .selection import GAIN_AREA, best_of_n, best_of_subsets, cost_steps, gain_area, random_pick
from .separation import detection_threshold, earliest, misalignment_cut
from .statistics import grouped_ci

YARDSTICK = "clip"
"""The default reference for final-image selection: frozen CLIP on finished images, as in the paper."""

OWN = "own"
"""The chooser if the bench has no such reference: the model's own scores of the finished images."""

EARLIEST = (("spearman", 0.5), ("misaligned_auroc", 0.75), ("recovered_gain", 0.8))
"""Figures and levels; a summary has the first position that reaches each."""

ModelScores = dict[int, Array]
"""Scores float [P, N] of one model by position; prompts in the order of the bench, NaN where there is none."""

_EVERY_SIZE = 64
"""Best-of-n is reported for every n up to this one, then for its doubles, and for all candidates."""


@dataclass(frozen=True)
class Setting:
    """What figures depend on besides scores and references.

    steps: T; calls_per_position: denoiser calls between two positions; misaligned_below: the reference below which a
    candidate counts as misaligned (default: its median); tags: skills per prompt, or none; calls_per_score: by model,
    denoiser calls per score beyond those before its position (1 for readers of x0); yardstick: the reference that
    final-image selection goes by.
    """

    steps: int
    calls_per_position: int = 1
    misaligned_below: float | None = None
    tags: Sequence[Tags | None] = ()
    calls_per_score: Mapping[str, int] = field(default_factory=dict)
    yardstick: str = YARDSTICK


def final_chooser(references: Mapping[str, Array], own: Array | None, by: str = YARDSTICK) -> tuple[Array, str | None]:
    """The scores that final-image selection goes by, and their name: those of the reference `by`, else the model's own,
    else all NaN and None."""
    if by in references:
        return references[by], by
    if own is not None:
        return own, OWN
    return np.full_like(next(iter(references.values())), np.nan), None


def checked_yardstick(name: str | None, references: Collection[str], place: str) -> tuple[str, str]:
    """The reference that final-image selection of the bench at `place` goes by (`name`, else clip), and a note for the
    user if the bench has no such reference, else "".

    Raises:
        NbenchError: the bench has no reference `name`.
    """
    takes = f"--yardstick takes {' or '.join(references)}" if references else "it has no references"
    if name is not None and name not in references:
        raise NbenchError(f"no reference {name} in {place} for final-image selection to go by: {takes}")
    by = name or YARDSTICK
    note = f"no reference {by} in {place}: final-image selection goes by each model's own final scores; {takes}"
    return by, "" if by in references else note


def skill_groups(tags: Sequence[Tags | None]) -> dict[tuple[str, str], Indices]:
    """The prompts (indices) that ask for each (level, skill), sorted.

    >>> skill_groups([{"basic": ["colour"], "advanced": []}, None, {"basic": ["colour"]}])
    {('basic', 'colour'): array([0, 2])}
    """
    prompts_of: dict[tuple[str, str], list[int]] = {}
    for prompt, levels in enumerate(tags):
        for level, skills in (levels or {}).items():
            for skill in dict.fromkeys(skills or ()):
                prompts_of.setdefault((level, skill), []).append(prompt)
    return {key: np.array(prompts_of[key]) for key in sorted(prompts_of)}


_BEST, _GAIN = METRICS["best_of_n"], METRICS["recovered_gain"]


class Part:
    """One model against one reference: per-prompt values at all positions, then figures with intervals."""

    def __init__(
        self, model: str, scores: ModelScores, references: Mapping[str, Array], label: str, setting: Setting
    ) -> None:
        self.model, self.scores, self.label, self.setting = model, scores, label, setting
        self.reference = references[label]
        self.n = self.reference.shape[1]
        self.sizes = _sizes(self.n)
        self.cut = misalignment_cut(self.reference, setting.misaligned_below)
        self.own = scores.get(setting.steps)
        self.random = random_pick(self.reference)
        self.final = best_of_n(final_chooser(references, self.own, setting.yardstick)[0], self.reference)
        self.oracle = best_of_n(self.reference, self.reference)
        self.fields: dict[int, dict[str, float | CI]] = {}
        self.columns = Columns()
        for position, (columns, fields) in zip(scores, at_once(self._measured, scores.values()), strict=True):
            self.columns.add(position, columns)
            self.fields[position] = fields
        self.means = self.columns.means()

    def _measured(self, scores: Array) -> tuple[dict[str, Array], dict[str, float | CI]]:
        """The columns of one position, and the fields of its row that are not means over prompts."""
        x, y = paired(scores, self.reference)
        picks = best_of_n(x, y)
        cell = Cell(x, y, scores, self.own, self.random, self.final, self.oracle, picks, self.cut)
        columns: dict[str, Array] = {}
        n_scored = int(np.isfinite(x).sum())
        fields: dict[str, float | CI] = {
            "n_scored": n_scored,
            "n_unscored": int((np.isfinite(scores) | np.isfinite(self.reference)).sum()) - n_scored,
            "tie_threshold": or_none(cell.once(calibrated_pairs)[1]),
            "misaligned_threshold": or_none(detection_threshold(x, y < self.cut)),
        }
        for metric in METRICS.values():
            columns |= {name: values(cell) for name, values in metric.columns().items()}
            if isinstance(metric.estimate, Pooled):
                fields |= metric.fields(*(end[0] for end in grouped_ci(metric.estimate.statistic(cell), x, y)))
        for n, picks_of_n in zip(self.sizes, best_of_subsets(x, y, self.sizes).T, strict=True):
            cell_of_n = cell.picking(picks_of_n)
            for metric in (_GAIN, _BEST):
                columns |= {f"{name}_{n}": values(cell_of_n) for name, values in metric.columns().items()}
        return columns, fields

    def row(self, position: int) -> ResultRow:
        """The figures at one position."""
        figures: dict[str, object] = {"model": self.model, "position": position, "reference": self.label}
        for metric in METRICS.values():
            if not isinstance(metric.estimate, Pooled):
                figures |= with_interval(metric, *self.means.of(metric, position))
        cost = self._cost(self.n, position)
        return ResultRow.model_validate(figures | self.fields[position] | {"cost_steps": cost})

    def selection(self, position: int) -> list[SelectionRow]:
        """Best-of-n at one position."""
        return [
            SelectionRow.model_validate(
                {"model": self.model, "position": position, "reference": self.label, "n": n}
                | {"cost_steps": self._cost(n, position)}
                | with_interval(_BEST, *self.means.of(_BEST, position, f"_{n}"))
                | with_interval(_GAIN, *self.means.of(_GAIN, position, f"_{n}"))
            )
            for n in self.sizes
        ]

    def skills(self) -> list[SkillRow]:
        """The figures on the prompts of each skill, at all positions."""
        metrics = METRICS["spearman"], _GAIN
        names = [name for metric in metrics for name in metric.columns()]
        rows = []
        for (level, skill), prompts in skill_groups(self.setting.tags).items():
            means = self.columns.means(prompts, names)
            for position in self.scores:
                figures: dict[str, object] = {"model": self.model, "position": position, "reference": self.label}
                figures |= {"level": level, "skill": skill, "n_prompts": len(prompts)}
                for metric in metrics:
                    figures |= with_interval(metric, *means.of(metric, position))
                rows.append(SkillRow.model_validate(figures))
        return rows

    def summary(self, rows: Sequence[ResultRow]) -> Summary:
        """The figures over all positions, from the `rows` of this part."""
        positions = sorted(self.scores)
        costs = np.array([self._cost(self.n, position) for position in positions], float)
        gains = [self.means.of(_GAIN, position) for position in positions]
        area = gain_area(costs, np.array([mean for mean, _ in gains]))
        draws = gain_area(costs, np.stack([draw for _, draw in gains], axis=1))
        reached = {
            f"{name}>={level}": earliest([row.position for row in rows], [getattr(row, name) for row in rows], level)
            for name, level in EARLIEST
        }
        figures = with_interval(GAIN_AREA, area, draws)
        return Summary.model_validate({"model": self.model, "reference": self.label, "earliest": reached} | figures)

    def _cost(self, n: int, position: int) -> int:
        setting, calls = self.setting, self.setting.calls_per_score.get(self.model, 0)
        reached = min(position + min(calls, 1), setting.steps)
        ahead = n * extra_calls(calls, position, setting.steps) * setting.calls_per_position
        return cost_steps(n, reached, setting.steps, setting.calls_per_position) + ahead


def _sizes(n: int) -> list[int]:
    doubles = [_EVERY_SIZE * 2**power for power in range(1, 32) if _EVERY_SIZE * 2**power < n]
    return sorted({*range(1, min(n, _EVERY_SIZE) + 1), *doubles, n})
