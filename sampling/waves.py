"""Decides which candidates continue at a stage and which wave comes next; pure logic, without a pipeline."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ..errors import NbenchError
from ..pipelines.padded_batch import padded
from ..shards.signals import extra_calls
from .policy import Policy, Stage


@dataclass(frozen=True)
class Rules:
    """How candidates are drawn and dropped.

    Args:
        stages: in ascending order of position; the last one leaves `keep` candidates (at T, or earlier if the policy
            says so).
        steps: T.
        n: number of candidates to run to the end of the stages, `max_batch` of them per wave (None: all).
        most: candidates to draw in all where a stage restarts: further waves of `n`.
        keep: candidates to select.
        accept: a score that is good enough; once `keep` candidates reach it, all others are dropped.
        restart: if the best score of a wave is below this at any stage, the wave ends and new candidates are drawn.
            When no more can be drawn, the best of those that came furthest are recalled (`Waves`).
        budget: maximum number of denoiser calls (one step of one candidate is one call).
        calls_per_score: denoiser calls of a score; from 1 on losers are dropped one step after the position of a stage,
            and all but the first are made beside the run.
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
    calls_per_score: int = 0
    compiled: bool = False
    most: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.n:
            raise NbenchError(f"cannot keep {self.keep} of {self.n} candidates: keep 1..{self.n}")
        if self.max_batch is not None and self.max_batch < self.keep:
            raise NbenchError(f"max_batch {self.max_batch} is less than keep={self.keep}: raise it")
        if self.restart is not None and self.budget is None:
            raise NbenchError("restart without a budget could run forever: set a budget too")
        copied = next((stage.position for stage in self.stages if stage.resample is not None), math.inf)
        if any(stage.position >= copied for stage in self.redrawing):
            raise NbenchError(f"candidates that are copied at {copied} cannot be recalled: restart before {copied}")
        if self.budget is not None and self.budget < self.cost(self.keep):
            raise NbenchError(
                f"a budget of {self.budget} calls is too small for an image: give {self.cost(self.keep)} or more "
                f"for {self.steps} steps"
            )

    @property
    def size(self) -> int:
        """Candidates of a full wave."""
        return min(self.n, self.max_batch or self.n)

    @property
    def redraws(self) -> bool:
        """Whether a wave may be drawn anew."""
        return bool(self.redrawing)

    @property
    def redrawing(self) -> tuple[Stage, ...]:
        """The stages at which a wave may be drawn anew."""
        return tuple(stage for stage in self.stages if self.restart is not None or stage.restart is not None)

    @property
    def settles(self) -> bool:
        """Whether `keep` candidates that are left need no more scores: stages dropped the others early by chance, and
        nothing else is compared with them."""
        by_chance = any(stage.chance is not None for stage in self.stages)
        return by_chance and self.accept is None and self.restart is None and self.size == self.n

    def cost(self, size: int) -> int:
        """Denoiser calls of a wave that does not end early."""
        calls, done, living = 0, 0, size
        for stage in self.stages:
            until = min(stage.position + min(self.calls_per_score, 1), self.steps)
            extra = extra_calls(self.calls_per_score, stage.position, self.steps)
            calls += self._batch(living, size) * (until - done + extra)
            done, living = until, min(living, stage.keep)
        return calls + self._batch(living, size) * (self.steps - done)

    def _batch(self, living: int, size: int) -> int:
        return padded(living, size) if self.compiled else living


def stages_of(policy: Policy, steps: int, keep: int) -> tuple[Stage, ...]:
    """The stages of a policy with at least `keep` kept at each; if the last one keeps more, a stage at T follows."""
    stages = tuple(replace(stage, keep=max(stage.keep, keep)) for stage in policy.stages)
    return stages if stages and stages[-1].keep == keep else (*stages, Stage(steps, keep))


class Waves:
    """Waves of candidates: at each stage a candidate competes with its wave and with those kept from earlier waves.

    A wave ends at the first stage where none of its candidates beats those kept before, or where all fall short of the
    score to reach. Of waves that fell short none is lost: if no other can be drawn, the best of those that came
    furthest are `recalled`, and go on from the stage where they stopped (as in Weitzman's search with recall, 1979).

    `spent` counts denoiser calls so far; the code that runs the waves increases it after every step.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.spent = 0
        self._left, self._drawn, self._size = rules.n, 0, 0
        self._kept: list[dict[int, float]] = [{} for _ in rules.stages]  # by stage: candidate -> merit, earlier waves
        self._scores: dict[int, list[float]] = {}  # by candidate, of all stages so far
        self._latest: list[int] = []  # scored at the latest stage
        self._wave: list[dict[int, float]] = []
        self._accepted = self._restarted = False
        self._short: dict[int, dict[int, float]] = {}  # by stage: candidate -> merit, of waves that fell short there
        self._returning: tuple[int, list[int]] | None = None  # the stage where they stopped, and candidates
        self.recalled = False

    def next(self) -> Sequence[int]:
        """Candidate numbers of the next wave; empty when enough are drawn or the budget covers no more.

        If it is `recalled`, its candidates stopped before, and the next stage is the one after that.
        """
        self._close()
        self.recalled = self._returning is not None
        if self._returning is not None:
            (stopped, candidates), self._returning = self._returning, None
            self._wave = [
                {each: merit(stage, self._scores[each][: index + 1]) for each in candidates}
                for index, stage in enumerate(self.rules.stages[: stopped + 1])
            ]
            return candidates
        size = 0 if self._accepted else min(self._left, self.rules.max_batch or self._left)
        if self.rules.budget is not None:
            left = self.rules.budget - self.spent
            size = next((smaller for smaller in range(size, 0, -1) if self.rules.cost(smaller) <= left), 0)
        self._size = size
        return range(self._drawn, self._drawn + size)

    def undecided(self, index: int, living: Collection[int]) -> bool:
        """Whether stage `index` needs the scores of the `living`; if not, all of them continue, in the order so far."""
        if self.rules.stages[index].restart is not None or len(living) > self.rules.keep or not self.rules.settles:
            return True
        if not self._wave and len(living) > 1:  # several have no order yet
            return True
        latest = self._wave[-1] if self._wave else {}
        self._wave.append({candidate: latest.get(candidate, math.nan) for candidate in living})
        return False

    def decide(self, index: int, scores: Mapping[int, float]) -> list[int]:
        """The candidates that continue after stage `index`, by the scores of all living ones; empty: the wave ends."""
        rules, stage = self.rules, self.rules.stages[index]
        for candidate, score in scores.items():
            self._scores.setdefault(candidate, []).append(score)
        self._latest = list(scores)
        merits = {candidate: merit(stage, self._scores[candidate]) for candidate in scores}
        ranked = best(merits)
        passing = [candidate for candidate in ranked if rules.accept is not None and scores[candidate] >= rules.accept]
        if self._accepted:
            kept = ranked
        elif len(passing) >= rules.keep:
            kept, self._accepted = passing[: rules.keep], True
        elif self._falls_short(stage, max(map(_number, scores.values()))):
            self._short.setdefault(index, {}).update(merits)
            self._restarted = self._may_redraw()
            kept = [] if self._restarted else self._recall(ranked)
        else:
            top = self._top(index, merits)
            kept = [candidate for candidate in ranked if candidate in top]
        self._wave.append({candidate: merits[candidate] for candidate in kept})
        return kept

    def ancestors(self, index: int, kept: Sequence[int], drawn: float) -> dict[int, int]:
        """After `decide`: which of those scored at stage `index` each of the `kept` becomes a copy of.

        Systematic resampling; one that is drawn and kept stays itself.

        drawn: uniform in 0..1.
        """
        before = [i for i, stage in enumerate(self.rules.stages[:index]) if stage.resample is not None]
        living = list(self._latest)
        risen = [self._scores[each][-1] - (self._scores[each][before[-1]] if before else 0.0) for each in living]
        logits = [(self.rules.stages[index].resample or 0.0) * _number(value) for value in risen]
        odds = _odds(logits)
        ends = list(accumulate(odds))
        points = [(drawn + number) / len(kept) * ends[-1] for number in range(len(kept))]
        chosen = [living[min(bisect_right(ends, point), len(living) - 1)] for point in points]
        own = {each: each for each in kept if each in chosen}
        for each in own:
            chosen.remove(each)
        result = own | dict(zip((each for each in kept if each not in own), chosen, strict=True))
        scores = {each: list(self._scores[ancestor]) for each, ancestor in result.items()}
        self._scores.update(scores)
        self._wave[-1] = {each: scores[each][-1] for each in result}
        return result

    def drop(self, candidate: int) -> None:
        """Take a candidate that goes on out of the competition, as no image has become of it."""
        for scores in self._wave:
            scores.pop(candidate, None)
        if self._wave and len(self._wave[-1]) < self.rules.keep:
            self._accepted = False

    def selected(self) -> list[int]:
        """The `keep` best of all candidates that reached the end, best first."""
        self._close()
        return best(self._kept[-1])[: self.rules.keep]

    def pause(self, index: int) -> None:
        """After `decide`: those that continue after stage `index` wait; `next` recalls them."""
        self._returning = index, list(self._wave[-1])

    @property
    def decided(self) -> int:
        """How many stages this wave has passed, those before it was recalled among them."""
        return len(self._wave)

    @property
    def returns(self) -> bool:
        """Whether the next wave is one that is recalled."""
        return self._returning is not None

    @property
    def redraws(self) -> bool:
        """Whether this wave fell short, and another is drawn in its place."""
        return self._restarted

    @property
    def waiting(self) -> frozenset[int]:
        """Candidates that are or may be recalled."""
        _, returning = self._returning or (0, [])
        return frozenset(returning).union(*self._short.values())

    def _top(self, index: int, merits: Mapping[int, float]) -> list[int]:
        """The best at a stage: of candidates with `merits` and those kept from earlier waves."""
        stage, rivals = self.rules.stages[index], {**self._kept[index], **merits}
        return best(rivals)[: _likely(stage, rivals, self.rules.keep)]

    def _falls_short(self, stage: Stage, score: float) -> bool:
        limits = [limit for limit in (self.rules.restart, stage.restart) if limit is not None]
        return bool(limits) and score < max(limits) and not self.recalled

    def _may_redraw(self) -> bool:
        """Whether another wave of this size can be drawn."""
        rules = self.rules
        if rules.most is not None and self._drawn + 2 * self._size > rules.most:
            return False
        return rules.budget is None or self.spent + rules.cost(self._size) <= rules.budget

    def _recall(self, ranked: Sequence[int]) -> list[int]:
        """After the last wave fell short: those of it that continue. If others are better, they return in its place."""
        furthest = max(index for index, short in self._short.items() if short)
        short = self._short[furthest]
        returning = [candidate for candidate in self._top(furthest, short) if candidate in short]
        for candidate in returning:
            del short[candidate]
        if set(returning) <= set(ranked):
            return returning
        self._returning = furthest, returning
        return []

    def _close(self) -> None:
        self._drawn += self._size
        if not self._restarted:
            self._left -= self._size
            for kept, scores in zip(self._kept, self._wave, strict=False):  # a wave that ended early has fewer stages
                if self._accepted:
                    kept.clear()
                kept.update(scores)
        self._size, self._wave, self._restarted = 0, [], False


def merit(stage: Stage, scores: Sequence[float]) -> float:
    """What `stage` compares candidates by: the latest of the scores so far, or their weighted sum."""
    if not stage.weights:
        return scores[-1]
    return sum(weight * score for weight, score in zip(reversed(stage.weights), reversed(scores), strict=False))


def _likely(stage: Stage, merits: Mapping[int, float], least: int) -> int:
    """How many of the best stay: at most the stage's `keep`, and those whose chance is not too low."""
    if stage.chance is None:
        return stage.keep
    odds = _odds([_number(value) for value in merits.values()])
    likely = sum(each >= stage.chance * sum(odds) for each in odds)
    return min(stage.keep, max(likely, least))


def _odds(logits: Sequence[float]) -> list[float]:
    """Odds relative to the highest, which may be infinite: inf - inf would make all of them NaN."""
    top = max(logits)
    return [1.0 if each == top else math.exp(each - top) for each in logits]


def best(scores: Mapping[int, float]) -> list[int]:
    """Candidates by score, highest first; ties by drawing order, NaN last."""
    return sorted(scores, key=lambda candidate: (-_number(scores[candidate]), candidate))


def _number(score: float) -> float:
    return -math.inf if math.isnan(score) else score
