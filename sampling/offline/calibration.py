"""Calibrates chances to be the best: a conditional logit of the scores so far, fitted to recorded references.

The chance of candidate i among the remaining ones is exp(w s_i) / sum_j exp(w s_j), with s_i its scores at the latest
stages (McFadden 1974; the first choice of Plackett and Luce). Chances among fewer candidates are those among all,
rescaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...benchmarks.metrics import Array
from ...errors import NbenchError
from ..policy import Policy, Stage
from .recorded_scores import Recorded

FOLDS = 5
_RIDGE, _ROUNDS, _CLOSE = 1e-3, 50, 1e-9


def calibrated(recorded: Recorded, policy: Policy) -> Policy:
    """`policy` with weights, fitted on all prompts, for its chances that have none."""

    def stage(number: int) -> Stage:
        each = policy.stages[number]
        if each.chance is None or each.weights:
            return each
        return replace(each, weights=tuple(fit(*_choice(recorded, _so_far(policy, number)))))

    return Policy(tuple(map(stage, range(len(policy.stages)))), policy.drawn)


def held_out_weights(recorded: Recorded, policy: Policy, folds: np.ndarray | None = None) -> dict[int, Array]:
    """Weights by position, [P, J], for the chances of `policy` that have none: each prompt's are fitted on other folds.

    folds: int [P], the fold of each prompt; None: `FOLDS` at random with a fixed seed.
    """
    folds = folds_of(len(recorded.reference), FOLDS) if folds is None else folds
    weights = {}
    for number, stage in enumerate(policy.stages):
        if stage.chance is not None and not stage.weights:
            features, best = _choice(recorded, _so_far(policy, number))
            weights[stage.position] = np.zeros((len(folds), features.shape[-1]))
            for fold in np.unique(folds):
                weights[stage.position][folds == fold] = fit(features[folds != fold], best[folds != fold])
    return weights


def folds_of(n_prompts: int, folds: int) -> np.ndarray:
    """The fold of each prompt, drawn with a fixed seed."""
    return np.random.default_rng(0).permutation(n_prompts) % folds


def fit(features: Array, best: Array) -> Array:
    """Weights [J] that make `best` most likely, by Newton's method.

    Args:
        features: [P, N, J]; NaN where a candidate cannot be used.
        best: chance [P, N] of each candidate to be the best, observed: 1 for the best, shared among equals.

    Raises:
        NbenchError: no prompt has a best candidate.
    """
    usable = np.isfinite(features).all(-1) & np.isfinite(best)
    told = (usable.sum(-1) > 1) & (np.where(usable, best, 0.0).sum(-1) > 0)
    if not told.any():
        raise NbenchError("no prompt has two candidates with scores and references: chances cannot be calibrated")
    features, best, usable = features[told], best[told], usable[told]
    spread = np.std(features[usable], axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled, target = np.where(usable[..., None], features / spread, 0.0), np.where(usable, best, 0.0)
    weights = np.zeros(features.shape[-1])
    for _ in range(_ROUNDS):
        merit = np.where(usable, scaled @ weights, -np.inf)
        odds = np.exp(merit - merit.max(-1, keepdims=True))
        chance = odds / odds.sum(-1, keepdims=True)
        mean = (chance[..., None] * scaled).sum(1)
        slope = ((target - chance)[..., None] * scaled).sum((0, 1)) - _RIDGE * len(scaled) * weights
        spreads = np.einsum("pn,pnj,pnk->jk", chance, scaled, scaled) - mean.T @ mean
        step = np.linalg.solve(spreads + _RIDGE * len(scaled) * np.eye(len(weights)), slope)
        weights = weights + step * min(1.0, 5.0 / max(np.abs(step).max(), _CLOSE))
        if np.abs(step).max() < _CLOSE:
            break
    return np.array([float(f"{weight:.4g}") for weight in weights / spread])


def _so_far(policy: Policy, number: int) -> list[int]:
    return [stage.position for stage in policy.stages[: number + 1]]


def _choice(recorded: Recorded, positions: Sequence[int]) -> tuple[Array, Array]:
    """Scores so far [P, N, J], and which candidate is the best [P, N]."""
    features = np.stack([recorded.at(position) for position in positions], -1)
    usable = np.isfinite(features).all(-1) & np.isfinite(recorded.reference)
    reference = np.where(usable, recorded.reference, -np.inf)
    top = usable & (reference == reference.max(-1, keepdims=True))
    return features, top / np.maximum(top.sum(-1, keepdims=True), 1)
