"""The loss against a loop that spells the definition out."""

import math

import numpy as np
import pytest
import torch

from nbench.training.contrast import contrast


def by_hand(logits: list[list[float]], captions: list[str]) -> float:
    size, total = len(logits), 0.0
    for i in range(size):
        logits_in_softmax = [logits[i][j] for j in range(len(captions)) if j == i or captions[j] != captions[i]]
        total -= math.log(math.exp(logits[i][i]) / sum(map(math.exp, logits_in_softmax))) / size / 2
        logits_in_softmax = [logits[j][i] for j in range(size) if j == i or captions[j] != captions[i]]
        total -= math.log(math.exp(logits[i][i]) / sum(map(math.exp, logits_in_softmax))) / size / 2
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


def test_a_teacher_says_how_true_each_caption_is() -> None:
    """Against the definition, spelt out in numpy; a repeated caption counts for neither side."""
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 3, 5)) * 3
    captions = ["a", "b", "a", "c", "d"]
    rows = []
    for i in range(3):
        columns = [j for j in range(5) if captions[j] != captions[i] or j == i]
        p, q = (np.exp(side[i, columns]) / np.exp(side[i, columns]).sum() for side in (teacher, logits))
        rows.append(-(p * np.log(q)).sum())
    columns = []
    for j in range(3):
        images = [i for i in range(3) if captions[j] != captions[i] or j == i]
        p, q = (np.exp(side[images, j]) / np.exp(side[images, j]).sum() for side in (teacher, logits))
        columns.append(-(p * np.log(q)).sum())
    loss, _ = contrast(torch.tensor(logits), captions, torch.tensor(teacher))
    assert loss.item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-5)


def test_a_sure_teacher_is_the_caption_itself() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    captions = list("abcdef")
    sure = torch.zeros(4, 6)
    sure[range(4), range(4)] = 100.0
    assert contrast(logits, captions, sure)[0].item() == pytest.approx(contrast(logits, captions)[0].item(), rel=1e-5)
