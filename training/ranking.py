"""Losses on the order of a prompt's candidates: listwise, LambdaRank, Bradley-Terry; and on a reference's values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(scores [B], reference scores [B], group numbers [B]) to a scalar. Rows without a reference (NaN) do not count."""


def correlation(scores: torch.Tensor, reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """1 - Pearson's correlation of scores and reference over the batch, whatever the groups."""
    known = reference.isfinite()
    if known.sum() < 2:
        return scores.sum() * 0
    return 1 - functional.cosine_similarity(_centred(scores[known]), _centred(reference[known]), dim=0)


def differences(scores: torch.Tensor, reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Squared error of the differences within groups, as a share of the reference's own: 1 - the share explained."""
    same, known = _same(reference, groups), reference.isfinite()
    target = _within(reference, same)[known]
    total = target.square().sum()
    if not total > 0:
        return scores.sum() * 0
    return (_within(scores, same)[known] - target).square().sum() / total


def listwise(scores: torch.Tensor, reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the softmax over each group (ListNet, Cao et al. 2007), averaged over groups."""
    same, relevance = _same(reference, groups), _relevance(reference, groups)
    counted = same.sum(1) > 1
    if not counted.any():
        return scores.sum() * 0
    excluded = ~same[counted]
    target = relevance.expand_as(same)[counted].masked_fill(excluded, -1e4).softmax(1)
    rows = -(target * scores.expand_as(same)[counted].masked_fill(excluded, -1e4).log_softmax(1)).sum(1)
    weights = 1 / same[counted].sum(1)  # every row of a group states the loss of the group
    return (rows * weights).sum() / weights.sum()


def bradley_terry(scores: torch.Tensor, reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean -log P(better beats worse) over the pairs of each group (Bradley and Terry 1952)."""
    better = _same(reference, groups) & (reference[:, None] > reference)
    if not better.any():
        return scores.sum() * 0
    return functional.softplus(-(scores[:, None] - scores))[better].mean()


def lambdarank(scores: torch.Tensor, reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """As `bradley_terry`, each pair weighted by what swapping it changes in NDCG (Burges 2010); mean over groups.

    A candidate's gain is its reference score, from 0 for the worst of the group to 1 for the best.
    """
    same = _same(reference, groups)
    better = same & (reference[:, None] > reference)
    if not better.any():
        return scores.sum() * 0
    values = torch.where(reference.isfinite(), reference, 0.0).expand_as(same)
    low = values.masked_fill(~same, float("inf")).amin(1)
    high = values.masked_fill(~same, -float("inf")).amax(1)
    gain = ((values[0] - low) / (high - low)).nan_to_num(0.0, 0.0, 0.0)
    place = (same & (scores > scores[:, None])).sum(1)
    discount = 1 / torch.log2(place + 2.0)
    best = (same & (reference > reference[:, None])).sum(1)
    ideal = torch.where(same, gain / torch.log2(best + 2.0), 0.0).sum(1)
    change = (gain[:, None] - gain).abs() * (discount[:, None] - discount).abs() / ideal[:, None]
    # chosen before they are multiplied: groups of equal candidates have an ideal of 0, and 0 x NaN is a NaN gradient
    pairs = functional.softplus(-(scores[:, None] - scores))[better] * change[better]
    return pairs.sum() / groups[better.any(1)].unique().numel()


LOSSES: dict[str, Loss] = {
    "reference": correlation,
    "differences": differences,
    "listwise": listwise,
    "lambdarank": lambdarank,
    "bradley-terry": bradley_terry,
}


def best_picked(scores: torch.Tensor, reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The share of groups whose highest score has the best candidate by the reference."""
    same, known = _same(reference, groups), reference.isfinite()
    highest, best = (
        known & (values >= values.expand_as(same).masked_fill(~same, -torch.inf).amax(1))
        for values in (scores, reference)
    )
    return best[highest].float().mean()


def _same(reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """bool [B, B]: pairs of one group that both have a reference score, each row with itself too."""
    known = reference.isfinite()
    return (groups[:, None] == groups) & known[:, None] & known


def _relevance(reference: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Reference scores minus their group's mean, in units of the batch's spread within groups."""
    within = _within(reference, _same(reference, groups))
    spread = within[reference.isfinite()].square().mean().sqrt()
    return within / spread if spread > 0 else within


def _within(values: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Values minus the mean of their group; those that are in no group (see `_same`) are not to be used."""
    values, weights = torch.where(same.diagonal(), values, 0.0), same.to(values)
    return values - (weights @ values) / weights.sum(1).clamp(min=1)


def _centred(values: torch.Tensor) -> torch.Tensor:
    return values - values.mean()
