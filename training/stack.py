"""A stack: weights for the scores of several scorers at several positions, from differences between candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..benchmarks.metrics import Array, mean_over_prompts
from ..benchmarks.metrics.model_figures import YARDSTICK
from ..benchmarks.metrics.selection import best_of_n, random_pick, recovered_gain
from ..benchmarks.metrics.statistics import bootstrap_means
from ..benchmarks.scoring.score import score_bench
from ..console import say
from ..errors import NbenchError, check_range
from ..scorers.registry import get_scorer, loaded
from ..scorers.stack import StackConfig, common_signal
from ..shards.reader import Bench, open_bench
from ..shards.references import finished_scores
from ..shards.scores import scores_at
from .config import StackTraining

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties to choose from, in units of a standardised score's variance."""
_INNER_FOLDS = 4


def train_stack(config: StackTraining) -> Path:
    """Fit and write `config.json` and `training.json` to `config.out`.

    At each position, a ridge regression of the differences in the reference between the candidates of a prompt on the
    differences in all scores up to there; its penalty is chosen by cross-validation over prompts. `training.json` has
    recovered gains, of the stack on held-out prompts and of each model alone on the same ones.

    Raises:
        NbenchError: the data lack a position, a signal or the reference, which may also score all candidates alike; the
            models read different signals; or `config.out` holds a model that is no stack.
    """
    check_range("--folds", config.folds, 2)
    kept = config.out / "config.json"
    if kept.is_file() and "nbench-stack" not in kept.read_text("utf-8"):
        raise NbenchError(f"{config.out} holds another model: choose another --out or remove it")
    bench = open_bench(config.data)
    positions = bench.select(config.positions)
    scorers = [get_scorer(model, bench.info, load=False) for model in config.models]
    common_signal(scorers)
    features = np.stack([_scores(bench, loaded(scorer), positions) for scorer in scorers], -1)  # [P, N, K, M]
    reference, final = (_reference(bench, name) for name in (config.reference, YARDSTICK))
    whole = np.isfinite(features).all((1, 2, 3)) & np.isfinite(reference).all(1) & np.isfinite(final).all(1)
    features, reference, final = features[whole], reference[whole], final[whole]
    if len(reference) < 2 * config.folds:
        raise NbenchError(
            f"{config.data} has {len(reference)} prompts with all scores: too few for {config.folds} folds"
        )
    if not (reference.std(1) > 0).any():
        raise NbenchError(
            f"{config.reference} tells no two candidates of a prompt in {config.data} apart: there is nothing to learn"
        )
    fold = np.random.default_rng(config.seed).permutation(len(reference)) % config.folds
    stacked, weights = held_out_sums(features, reference, fold), {}
    for place, position in enumerate(positions):
        rows = fit(_so_far(features, place), reference).reshape(place + 1, len(scorers))
        weights[position] = tuple(tuple(map(float, row)) for row in rows)
    ways = {"stack": stacked} | {scorer.name: features[..., i] for i, scorer in enumerate(scorers)}
    gains = {
        position: {way: _gain(scores[..., place], reference, final) for way, scores in ways.items()}
        for place, position in enumerate(positions)
    }
    stack = StackConfig(
        models=config.models, positions=positions, steps=bench.info.steps, reference=config.reference, weights=weights
    )
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "config.json").write_text(stack.model_dump_json(indent=1) + "\n")
    report = {"data": bench.info.fingerprint, "prompts": len(reference), "folds": config.folds, "recovered_gain": gains}
    (config.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    for position, by_way in gains.items():
        figures = ", ".join(f"{way} {_shown(*figure)}" for way, figure in by_way.items())
        say(f"recovered gain by {config.reference} at {position}: {figures}", error=True)
    return config.out


def held_out_sums(features: Array, reference: Array, fold: np.ndarray) -> Array:
    """Weighted sums [P, N, K] of scores [P, N, K, M] of M models up to each of K positions; a prompt's weights are
    fitted to the reference [P, N] of the other folds. fold: int [P]."""
    sums: Array = np.zeros(features.shape[:3])
    for place in range(sums.shape[-1]):
        inputs = _so_far(features, place)
        for held_out in np.unique(fold):
            fitted = fit(inputs[fold != held_out], reference[fold != held_out])
            sums[fold == held_out, :, place] = inputs[fold == held_out] @ fitted
    return sums


def _so_far(features: Array, place: int) -> Array:
    prompts, candidates = features.shape[:2]
    return features[:, :, : place + 1].reshape(prompts, candidates, -1)


def fit(inputs: Array, reference: Array) -> Array:
    """Weights float [F] of a ridge regression within prompts, of `inputs` [P, N, F] and `reference` [P, N].

    The penalty with the lowest error on held-out prompts is taken, the largest of equal ones.
    """
    centred, target = inputs - inputs.mean(1, keepdims=True), reference - reference.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean((0, 1)))
    centred = centred / np.where(spread > 0, spread, 1)
    fold = np.arange(len(target)) % _INNER_FOLDS
    errors = []
    for penalty in _PENALTIES:
        kept = [(fold != held_out, fold == held_out) for held_out in range(_INNER_FOLDS)]
        errors.append(
            sum(
                ((target[out] - centred[out] @ _ridge(centred[rest], target[rest], penalty)) ** 2).sum()
                for rest, out in kept
            )
        )
    best = max(place for place, error in enumerate(errors) if error <= min(errors))
    return _ridge(centred, target, _PENALTIES[best]) / np.where(spread > 0, spread, 1)


def _ridge(inputs: Array, target: Array, penalty: float) -> Array:
    flat = inputs.reshape(-1, inputs.shape[-1])
    gram = flat.T @ flat + penalty * len(flat) * np.eye(flat.shape[1])
    return np.asarray(np.linalg.solve(gram, flat.T @ target.reshape(-1)))


def _scores(bench: Bench, scorer: object, positions: Sequence[int]) -> Array:
    """Scores float [P, N, K] of a model at K positions."""
    table = score_bench(bench, scorer, positions)  # type: ignore[arg-type]
    return np.stack([_table(bench, scores_at(table, position)) for position in positions], -1)


def _reference(bench: Bench, name: str) -> Array:
    return _table(bench, scores_at(finished_scores(bench, name), bench.info.steps))


def _table(bench: Bench, scores: dict[tuple[str, int], float]) -> Array:
    """Scores float [P, N] in the order of the bench, NaN where there is none."""
    ids, numbers = [prompt.prompt_id for prompt in bench.prompts], range(bench.info.candidates)
    return np.array([[scores.get((name, number), np.nan) for number in numbers] for name in ids])


def _gain(scores: Array, reference: Array, final: Array) -> tuple[float, float, float]:
    """Recovered gain with its 95 % interval."""
    picks = np.stack([best_of_n(scores, reference), random_pick(reference), best_of_n(final, reference)], -1)
    value = float(recovered_gain(*mean_over_prompts(picks)))
    low, high = np.nanquantile(recovered_gain(*bootstrap_means(picks).T), [0.025, 0.975])
    return value, float(low), float(high)


def _shown(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
