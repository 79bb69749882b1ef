"""One model against one reference: the values of each prompt at all positions, and the figures they come to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import NbenchError
from ...shards.schema import Tags
from .. import metrics
from ..results.result_file import CI, ResultRow, SelectionRow, SkillRow, Summary
from . import pooled
from .arrays import Array, Indices, at_once, paired
from .prompt_values import Columns, figure, known

YARDSTICK = "clip"
"""The reference that final-image selection goes by unless another is named: frozen CLIP on finished images, as in the
paper."""

OWN = "own"
"""The chooser where there is no such reference: the model's own scores of the finished images."""

EARLIEST = (("spearman", 0.5), ("misaligned_auroc", 0.75), ("recovered_gain", 0.8))
"""Levels of which a summary tells at which position they are first reached."""

ModelScores = dict[int, Array]
"""Scores float [P, N] of one model by position; prompts in the order of the bench, NaN where there is none."""

_EVERY_SIZE = 64
"""Best-of-n is told for every n up to here, then for doubles, and for all candidates."""


@dataclass(frozen=True)
class Setting:
    """steps: T; calls_per_position: denoiser calls between two positions; misaligned_below: the reference below which
    a candidate counts as misaligned (default: its median); tags: skills of each prompt, or none; calls_per_score: by
    model, calls of each candidate that a score costs beyond those before its position (1 for readers of x0);
    yardstick: the reference that final-image selection goes by."""

    steps: int
    calls_per_position: int = 1
    misaligned_below: float | None = None
    tags: Sequence[Tags | None] = ()
    calls_per_score: Mapping[str, int] = field(default_factory=dict)
    yardstick: str = YARDSTICK


def final_chooser(references: Mapping[str, Array], own: Array | None, by: str = YARDSTICK) -> tuple[Array, str | None]:
    """The scores that final-image selection goes by, and their name: those of the reference `by`, else the model's own;
    all NaN and None where there are neither."""
    if by in references:
        return references[by], by
    if own is not None:
        return own, OWN
    return np.full_like(next(iter(references.values())), np.nan), None


def checked_yardstick(named: str | None, references: Collection[str], place: str) -> tuple[str, str]:
    """The reference that final-image selection of the bench at `place` goes by (`named`, else clip), and a note for the
    user where it has no such reference, "" where it has.

    Raises:
        NbenchError: there is none that was `named`.
    """
    takes = f"--yardstick takes {' or '.join(references)}" if references else "it has no references"
    if named is not None and named not in references:
        raise NbenchError(f"no reference {named} in {place} for final-image selection to go by: {takes}")
    by = named or YARDSTICK
    note = f"no reference {by} in {place}: final-image selection goes by each model's own final scores; {takes}"
    return by, "" if by in references else note


def skill_groups(tags: Sequence[Tags | None]) -> dict[tuple[str, str], Indices]:
    """The prompts (indices) that ask for each (level, skill), sorted.

    >>> skill_groups([{"basic": ["colour"], "advanced": []}, None, {"basic": ["colour"]}])
    {('basic', 'colour'): array([0, 2])}
    """
    found: dict[tuple[str, str], list[int]] = {}
    for prompt, levels in enumerate(tags):
        for level, skills in (levels or {}).items():
            for skill in dict.fromkeys(skills or ()):
                found.setdefault((level, skill), []).append(prompt)
    return {key: np.array(found[key]) for key in sorted(found)}


_MEANS = (
    "spearman",
    "kendall",
    "gap",
    "best_of_n",
    "pearson",
    "pairwise_accuracy",
    "top1",
    "regret",
    "self_consistency",
)
_RATIOS = {
    "retention": "retention",
    "recovered_gain": "recovered_gain",
    "oracle_gain": "oracle_gain",
    "misaligned_precision": "precision",
    "misaligned_recall": "recall",
}


class Part:
    """One model against one reference: the values of each prompt at all positions, then figures with intervals."""

    def __init__(
        self, model: str, scores: ModelScores, references: Mapping[str, Array], label: str, setting: Setting
    ) -> None:
        self.model, self.scores, self.label, self.setting = model, scores, label, setting
        self.reference = references[label]
        self.n = self.reference.shape[1]
        self.sizes = _sizes(self.n)
        self.cut = pooled.misalignment_cut(self.reference, setting.misaligned_below)
        self.own = scores.get(setting.steps)
        self.random = metrics.random_pick(self.reference)
        self.final = metrics.best_of_n(final_chooser(references, self.own, setting.yardstick)[0], self.reference)
        self.oracle = metrics.best_of_n(self.reference, self.reference)
        self.ties: dict[int, float] = {}
        self.columns = Columns()
        for position, (columns, tie) in zip(scores, at_once(self._columns, scores.values()), strict=True):
            self.columns.add(position, **columns)
            self.ties[position] = tie
        self.means = self.columns.means()

    def _columns(self, values: Array) -> tuple[dict[str, Array], float]:
        """The columns of one position, and the threshold of its ties."""
        x, y = paired(values, self.reference)
        accuracy, tie = metrics.pairwise_accuracy(x, y)
        right, alarms, misaligned = metrics.held_out_detection(x, y < self.cut).T
        best = metrics.best_of_n(x, y)
        oracle = np.where(np.isfinite(best), self.oracle, np.nan)
        blind = np.where(np.isfinite(best), self.random, np.nan)
        columns = dict(
            spearman=metrics.spearman(x, y),
            kendall=metrics.kendall(x, y),
            gap=metrics.best_worst_gap(x, y),
            best_of_n=best,
            pearson=metrics.pearson(x, y),
            pairwise_accuracy=accuracy,
            top1=metrics.top1_hit(x, y),
            regret=metrics.regret(x, y),
            self_consistency=np.full(len(x), np.nan)
            if self.own is None
            else metrics.self_consistency(values, self.own),
            right=right,
            alarms=alarms,
            misaligned=misaligned,
            blind=blind,
            oracle=oracle,
            whole=oracle - blind,
            **self._chosen(best),
        )
        for n, values_of_n in zip(self.sizes, metrics.best_of_subsets(x, y, self.sizes).T, strict=True):
            columns |= {f"{name}_{n}": column for name, column in self._chosen(values_of_n).items()}
            columns[f"best_{n}"] = values_of_n
        return columns, tie

    def _chosen(self, selected: Array) -> dict[str, Array]:
        """What ratios of means are taken of: they need the same prompts in each."""
        both = np.isfinite(selected) & np.isfinite(self.random) & np.isfinite(self.final)
        parts = {"selected": selected, "random": self.random, "final": self.final, "gain": self.final - self.random}
        return {name: np.where(both, values, np.nan) for name, values in parts.items()}

    def row(self, position: int) -> ResultRow:
        """The figures at one position."""
        x, y = paired(self.scores[position], self.reference)
        n_scored = int(np.isfinite(x).sum())
        n_either = int((np.isfinite(self.scores[position]) | np.isfinite(self.reference)).sum())
        figures: dict[str, float | CI] = {}
        for name in _MEANS:
            figures |= figure(name, *self.means.mean_of(position, name))
        for name, kind in _RATIOS.items():
            figures |= figure(name, *self.means.ratio_of(position, kind))
        figures |= pooled.pooled_figures(x, y, self.cut)
        return ResultRow.model_validate(
            figures
            | {
                "model": self.model,
                "position": position,
                "reference": self.label,
                "cost_steps": self._cost(self.n, position),
                "n_scored": n_scored,
                "n_unscored": n_either - n_scored,
                "tie_threshold": known(self.ties[position]),
            }
        )

    def selection(self, position: int) -> list[SelectionRow]:
        """Best-of-n at one position."""
        return [
            SelectionRow.model_validate(
                {"model": self.model, "position": position, "reference": self.label, "n": n}
                | {"cost_steps": self._cost(n, position)}
                | figure("best_of_n", *self.means.mean_of(position, f"best_{n}"))
                | figure("recovered_gain", *self.means.ratio_of(position, "recovered_gain", f"_{n}"))
            )
            for n in self.sizes
        ]

    def skills(self) -> list[SkillRow]:
        """The figures on the prompts of each skill, at all positions."""
        found = []
        for (level, skill), prompts in skill_groups(self.setting.tags).items():
            means = self.columns.means(prompts, ("spearman", "selected", "random", "final", "gain"))
            for position in self.scores:
                figures = {"model": self.model, "position": position, "reference": self.label}
                figures |= {"level": level, "skill": skill, "n_prompts": len(prompts)}
                figures |= figure("spearman", *means.mean_of(position, "spearman"))
                figures |= figure("recovered_gain", *means.ratio_of(position, "recovered_gain"))
                found.append(SkillRow.model_validate(figures))
        return found

    def summary(self, rows: Sequence[ResultRow]) -> Summary:
        """The figures over all positions, from the `rows` of this part."""
        positions = sorted(self.scores)
        costs = np.array([self._cost(self.n, position) for position in positions], float)
        gains = [self.means.ratio_of(position, "recovered_gain") for position in positions]
        area = metrics.gain_area(costs, np.array([mean for mean, _ in gains]))
        draws = metrics.gain_area(costs, np.stack([draw for _, draw in gains], axis=1))
        found = {
            f"{name}>={level}": metrics.earliest(
                [row.position for row in rows], [getattr(row, name) for row in rows], level
            )
            for name, level in EARLIEST
        }
        figures = figure("gain_area", area, draws)
        return Summary.model_validate({"model": self.model, "reference": self.label, "earliest": found} | figures)

    def _cost(self, n: int, position: int) -> int:
        known = min(position + self.setting.calls_per_score.get(self.model, 0), self.setting.steps)
        return metrics.cost_steps(n, known, self.setting.steps, self.setting.calls_per_position)


def _sizes(n: int) -> list[int]:
    doubles = [_EVERY_SIZE * 2**power for power in range(1, 32) if _EVERY_SIZE * 2**power < n]
    return sorted({*range(1, min(n, _EVERY_SIZE) + 1), *doubles, n})
