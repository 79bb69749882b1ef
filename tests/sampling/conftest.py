"""Recorded scores with a known truth, and an independent slow replay of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np

from nbench.sampling.offline.recorded_scores import Recorded
from nbench.sampling.policy import Policy


def recorded(
    prompts: int, candidates: int, positions: Sequence[int], steps: int, ties: bool, seed: int = 0
) -> Recorded:
    """Scores that get closer to the reference with the position; with ties, rounded to few levels."""
    rng = np.random.default_rng(seed)
    reference = rng.random((prompts, candidates))
    scores = {k: reference + rng.normal(0, 1.0 - 0.9 * k / steps, reference.shape) for k in positions}
    final = reference + rng.normal(0, 0.1, reference.shape)
    if ties:
        scores = {k: (values * 2).round() for k, values in scores.items()}
        reference, final = (reference * 3).round(), (final * 3).round()
    return Recorded("made", scores, reference, "truth", final, "clip", steps)


def slow_pick(record: Recorded, policy: Policy, n: int, prompt: int) -> float:
    """Expected reference by enumerating all subsets and all tie-breaks, with exact fractions as probabilities."""
    reference = record.reference[prompt]
    usable = [c for c in range(len(reference)) if np.isfinite(reference[c])]
    subsets = list(combinations(usable, n if policy.drawn is None else policy.drawn))
    return sum(_mean(record, policy, 0, subset, prompt) for subset in subsets) / len(subsets)


def _mean(record: Recorded, policy: Policy, at: int, living: tuple[int, ...], prompt: int) -> float:
    if at == len(policy.stages):
        return float(np.mean(record.reference[prompt][list(living)]))
    stage = policy.stages[at]
    scores = record.scores[stage.position][prompt]
    outcomes = [
        kept
        for kept in combinations(living, stage.keep)
        if all(scores[c] <= min(scores[k] for k in kept) for c in living if c not in kept)
    ]
    share = Fraction(1, len(outcomes))
    return sum(float(share) * _mean(record, policy, at + 1, kept, prompt) for kept in outcomes)
