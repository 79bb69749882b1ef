"""Who goes on at a stage, and which wave of candidates comes next; pure decisions, which no run is needed for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import NbenchError
from ..pipelines.padded_batch import padded
from .policy import Policy, Stage


@dataclass(frozen=True)
class Rules:
    """How candidates are drawn and dropped.

    Args:
        stages: positions ascending, the last one that at which `keep` are left: T unless the policy gets there before.
        steps: T.
        n: candidates in all, `max_batch` of them at a time (None: all).
        keep: candidates to end with.
        accept: a score at which a candidate is good enough; as soon as `keep` of them are, nobody else goes on.
        restart: a score below which the best of a wave, at any stage, ends the wave; others are drawn in their place.
        budget: denoiser calls (a candidate, a step), never exceeded.
        lag: steps after the position of a stage until its losers leave: 1 for scorers of what step k predicts.
        compiled: whether the denoiser's batch shrinks to a few sizes only.
    """

    stages: tuple[Stage, ...]
    steps: int
    n: int
    keep: int = 1
    max_batch: int | None = None
    accept: float | None = None
    restart: float | None = None
    budget: int | None = None
    lag: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.n:
            raise NbenchError(f"keep {self.keep} of {self.n} candidates makes no sense: keep 1..{self.n}")
        if self.max_batch is not None and self.max_batch < self.keep:
            raise NbenchError(f"max_batch {self.max_batch} is less than the {self.keep} to keep: raise it")
        if self.restart is not None and self.budget is None:
            raise NbenchError("restart may draw seeds without end: give a budget too")
        if self.budget is not None and self.budget < self.cost(self.keep):
            least = self.cost(self.keep)
            raise NbenchError(
                f"a budget of {self.budget} calls makes no image: {self.steps} steps take {least} or more"
            )

    def cost(self, size: int) -> int:
        """Denoiser calls of a wave that nothing ends early."""
        calls, done, living = 0, 0, size
        for stage in self.stages:
            until = min(stage.position + self.lag, self.steps)
            calls += self._batch(living, size) * (until - done)
            done, living = until, min(living, stage.keep)
        return calls + self._batch(living, size) * (self.steps - done)

    def _batch(self, living: int, size: int) -> int:
        return padded(living, size) if self.compiled else living


def stages_of(policy: Policy, steps: int, keep: int) -> tuple[Stage, ...]:
    """The stages of a policy, none of which leaves fewer than `keep`; at T as many are left."""
    stages = tuple(Stage(stage.position, max(stage.keep, keep)) for stage in policy.stages)
    return stages if stages and stages[-1].keep == keep else (*stages, Stage(steps, keep))


class Waves:
    """Candidates in waves: each competes at each stage with those of its wave and with those kept of the waves before.

    So a wave none of which beats what is there already ends at the stage that shows it.

    `spent` counts denoiser calls so far; whoever runs the waves adds to it after every step.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.spent = 0
        self._left, self._drawn, self._size = rules.n, 0, 0
        self._kept: list[dict[int, float]] = [{} for _ in rules.stages]  # candidate -> score, by stage, of waves past
        self._wave: list[dict[int, float]] = []
        self._accepted = self._restarted = False

    def next(self) -> range:
        """The numbers of the next wave's candidates; none when enough are drawn, or the budget covers no other."""
        self._close()
        size = 0 if self._accepted else min(self._left, self.rules.max_batch or self._left)
        if self.rules.budget is not None:
            left = self.rules.budget - self.spent
            size = next((some for some in range(size, 0, -1) if self.rules.cost(some) <= left), 0)
        self._size = size
        return range(self._drawn, self._drawn + size)

    def decide(self, index: int, scores: Mapping[int, float]) -> list[int]:
        """The candidates that go on after stage `index`, of all living ones' scores at it; none: the wave ends here."""
        rules, ranked = self.rules, best(scores)
        good = [candidate for candidate in ranked if rules.accept is not None and scores[candidate] >= rules.accept]
        if self._accepted:
            kept = ranked
        elif len(good) >= rules.keep:
            kept, self._accepted = good[: rules.keep], True
        elif self._restarts(scores[ranked[0]]):
            kept, self._restarted = [], True
        else:
            first = best({**self._kept[index], **scores})[: rules.stages[index].keep]
            kept = [candidate for candidate in ranked if candidate in first]
        self._wave.append({candidate: scores[candidate] for candidate in kept})
        return kept

    def drop(self, candidate: int) -> None:
        """Take a candidate that goes on out of the competition, as no image has become of it."""
        for scores in self._wave:
            scores.pop(candidate, None)
        if self._wave and len(self._wave[-1]) < self.rules.keep:
            self._accepted = False

    def selected(self) -> list[int]:
        """The `keep` best of all that stayed to the end, best first."""
        self._close()
        return best(self._kept[-1])[: self.rules.keep]

    def _restarts(self, score: float) -> bool:
        # only where the budget covers such a wave once more: something must come out
        rules = self.rules
        if rules.restart is None or rules.budget is None or score >= rules.restart:
            return False
        return self.spent + rules.cost(self._size) <= rules.budget

    def _close(self) -> None:
        self._drawn += self._size
        if not self._restarted:
            self._left -= self._size
            for kept, scores in zip(self._kept, self._wave, strict=False):  # a wave that ended early has fewer
                if self._accepted:
                    kept.clear()
                kept.update(scores)
        self._size, self._wave, self._restarted = 0, [], False


def best(scores: Mapping[int, float]) -> list[int]:
    """Candidates by score, highest first; of equals the one drawn first, and what is no number last."""
    return sorted(scores, key=lambda candidate: (-_number(scores[candidate]), candidate))


def _number(score: float) -> float:
    return -math.inf if math.isnan(score) else score
