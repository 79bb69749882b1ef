"""Figures of scores with several captions per latent, and of embeddings: separation by kind, retrieval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Indices, mean_over_prompts
from .model_figures import ModelScores
from .prompt_values import with_interval
from .retrieval import RECALL, retrieval_recall
from .rows import RetrievalRow, SeparationRow
from .separation import AUROC, AVERAGE_PRECISION, PREFERENCE, Labels, auroc, average_precision, preferred
from .statistics import bootstrap_ci, bootstrap_means, grouped_ci

ALL = "all"


def separation_rows(model: str, true: ModelScores, corrupted: Mapping[str, ModelScores]) -> list[SeparationRow]:
    """True against corrupted captions, per kind and for all kinds together, at each position that has both."""
    rows = []
    for position, right in true.items():
        kinds = {kind: scores[position] for kind, scores in corrupted.items() if position in scores}
        if len(kinds) > 1:
            kinds = {ALL: np.concatenate(list(kinds.values()), axis=1)} | kinds
        rows += [_separation(model, position, kind, right, wrong) for kind, wrong in kinds.items()]
    return rows


def retrieval_rows(
    model: str,
    position: int,
    texts: NDArray[np.floating],
    latents: NDArray[np.floating],
    owners: Indices,
    ks: Sequence[int] = (1, 5, 10),
) -> list[RetrievalRow]:
    """Recall at each k in both directions, from embeddings as `retrieval_recall` takes them."""
    rows = []
    for direction, recall in zip(
        ("text_to_latent", "latent_to_text"), retrieval_recall(texts, latents, owners, ks), strict=True
    ):
        interval = bootstrap_ci(recall)
        for k, mean, low, high in zip(ks, *interval, strict=True):
            figures = {"model": model, "position": position, "direction": direction, "k": k}
            rows.append(RetrievalRow.model_validate(figures | RECALL.fields(mean, low, high)))
    return rows


def _separation(model: str, position: int, kind: str, true: Array, corrupted: Array) -> SeparationRow:
    repeated = np.tile(true, (1, corrupted.shape[1] // true.shape[1]))  # once per kind
    pairs = preferred(repeated, corrupted)[:, None]
    both = np.concatenate([true, corrupted], axis=1)
    labels = np.concatenate([np.ones_like(true), np.zeros_like(corrupted)], axis=1)
    figures = with_interval(PREFERENCE, mean_over_prompts(pairs)[0], bootstrap_means(pairs)[:, 0])
    for figure, statistic in ((AUROC, auroc), (AVERAGE_PRECISION, average_precision)):
        figures |= figure.fields(*(end[0] for end in grouped_ci(partial(_by_label, statistic), both, labels)))
    n_pairs = int(np.isfinite(repeated - corrupted).sum())
    return SeparationRow.model_validate(
        figures | {"model": model, "position": position, "kind": kind, "n_pairs": n_pairs}
    )


def _by_label(statistic: Callable[[Array, Labels], Array], scores: Array, labels: Array) -> Array:
    return statistic(scores, labels == 1)
