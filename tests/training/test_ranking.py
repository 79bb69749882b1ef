"""The ranking losses against loops that spell their definitions out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from nbench.training.ranking import best_picked, bradley_terry, correlation, differences, lambdarank, listwise

GROUPS = [0, 0, 0, 1, 1, 2, 2, 2]
REFERENCE = [0.1, 0.9, 0.5, 0.3, 0.3, math.nan, 0.2, 0.8]


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def groups() -> list[list[int]]:
    """The rows of each group that have a reference score."""
    rows = [row for row in range(8) if not math.isnan(REFERENCE[row])]
    return [[row for row in rows if GROUPS[row] == group] for group in range(3)]


def value(loss: object, scores: torch.Tensor) -> float:
    return float(loss(scores, torch.tensor(REFERENCE, dtype=torch.float64), torch.tensor(GROUPS)))  # type: ignore[operator]


def better() -> list[tuple[int, int]]:
    return [(i, j) for rows in groups() for i, j in itertools.permutations(rows, 2) if REFERENCE[i] > REFERENCE[j]]


def test_bradley_terry(scores: torch.Tensor) -> None:
    s = scores.tolist()
    expected = np.mean([-math.log(1 / (1 + math.exp(s[j] - s[i]))) for i, j in better()])
    assert value(bradley_terry, scores) == pytest.approx(expected)


def test_listwise(scores: torch.Tensor) -> None:
    within = {row: REFERENCE[row] - np.mean([REFERENCE[each] for each in rows]) for rows in groups() for row in rows}
    spread = math.sqrt(np.mean([each**2 for each in within.values()]))
    losses = []
    for rows in groups():
        p, q = (
            np.exp([values[row] for row in rows]) for values in ({r: w / spread for r, w in within.items()}, scores)
        )
        losses.append(-(p / p.sum() * np.log(q / q.sum())).sum())
    assert value(listwise, scores) == pytest.approx(np.mean(losses))


def test_lambdarank(scores: torch.Tensor) -> None:
    s, losses = scores.tolist(), []
    for rows in groups():
        judged = [REFERENCE[row] for row in rows]
        if max(judged) == min(judged):
            continue
        gain = {row: (REFERENCE[row] - min(judged)) / (max(judged) - min(judged)) for row in rows}
        place = {row: sum(s[other] > s[row] for other in rows) for row in rows}
        ideal = sum(value / math.log2(rank + 2) for rank, value in enumerate(sorted(gain.values(), reverse=True)))
        total = 0.0
        for i, j in itertools.permutations(rows, 2):
            if REFERENCE[i] > REFERENCE[j]:
                swap = abs(gain[i] - gain[j]) * abs(1 / math.log2(place[i] + 2) - 1 / math.log2(place[j] + 2)) / ideal
                total += swap * math.log(1 + math.exp(s[j] - s[i]))
        losses.append(total)
    assert value(lambdarank, scores) == pytest.approx(np.mean(losses))


def test_correlation(scores: torch.Tensor) -> None:
    rows = [row for each in groups() for row in each]
    expected = 1 - np.corrcoef(scores[rows], np.array(REFERENCE)[rows])[0, 1]
    assert value(correlation, scores) == pytest.approx(expected)


def test_differences(scores: torch.Tensor) -> None:
    values, reference = scores.numpy(), np.array(REFERENCE)
    errors = [values[rows] - values[rows].mean() - reference[rows] + reference[rows].mean() for rows in groups()]
    total = sum(np.sum((reference[rows] - reference[rows].mean()) ** 2) for rows in groups())
    assert value(differences, scores) == pytest.approx(np.sum(np.concatenate(errors) ** 2) / total)
    assert value(differences, torch.tensor(REFERENCE, dtype=torch.float64) + 3) == pytest.approx(0)


def test_the_best_that_was_picked(scores: torch.Tensor) -> None:
    best = [
        REFERENCE[max(rows, key=lambda row: scores[row])] == max(REFERENCE[row] for row in rows) for rows in groups()
    ]
    assert value(best_picked, scores) == pytest.approx(np.mean(best))
    assert value(best_picked, torch.tensor([0, 1, 0, 0, 1, 9, 1, 0.0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("loss", [bradley_terry, listwise, lambdarank, correlation, differences])
def test_gradients_are_those_of_finite_differences(loss: object, scores: torch.Tensor) -> None:
    reference, numbers = torch.tensor(REFERENCE, dtype=torch.float64), torch.tensor(GROUPS)
    assert torch.autograd.gradcheck(lambda each: loss(each, reference, numbers), scores.requires_grad_())  # type: ignore[operator]


@pytest.mark.parametrize("loss", [bradley_terry, listwise, lambdarank, correlation, differences])
def test_nothing_to_compare_is_no_loss(loss: object) -> None:
    scores = torch.randn(3, requires_grad=True)
    total = loss(scores, torch.full((3,), math.nan), torch.zeros(3))  # type: ignore[operator]
    total.backward()
    assert total.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()
