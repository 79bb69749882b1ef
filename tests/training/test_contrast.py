"""The loss against a loop that spells the definition out."""

import math

import torch

from nbench.training.contrast import contrast


def by_hand(logits: list[list[float]], captions: list[str]) -> float:
    size, total = len(logits), 0.0
    for i in range(size):
        seen = [logits[i][j] for j in range(len(captions)) if j == i or captions[j] != captions[i]]
        total -= math.log(math.exp(logits[i][i]) / sum(map(math.exp, seen))) / size / 2
        seen = [logits[j][i] for j in range(size) if j == i or captions[j] != captions[i]]
        total -= math.log(math.exp(logits[i][i]) / sum(map(math.exp, seen))) / size / 2
    return total


def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 7)
    captions = ["a", "b", "a", "c", "x", "b", "y"]  # twins among images and among negatives
    loss, accuracy = contrast(logits, captions)
    assert math.isclose(loss.item(), by_hand(logits.tolist(), captions), rel_tol=1e-5)
    assert 0 <= accuracy.item() <= 1


def test_perfect_scores_cost_nothing() -> None:
    loss, accuracy = contrast(100 * torch.eye(3, 5), list("abcde"))
    assert loss.item() < 1e-6
    assert accuracy.item() == 1
