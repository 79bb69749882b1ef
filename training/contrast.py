"""Losses of images and captions, extra captions as hard negatives: InfoNCE (van den Oord et al. 2018), sigmoid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

_MASKED = -1e4
"""The logit of a masked caption: zero after softmax, but finite, since -inf times a target of 0 is NaN."""


def contrast(
    logits: torch.Tensor, captions: Sequence[str], teacher: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy of scaled cosines between B images and their captions.

    Args:
        logits: [B, B + negatives]; the first B columns are the images' own captions, in order.
        captions: the text of every column; a repeated caption is not a negative of itself.
        teacher: scaled cosines of a teacher model, [B, B + negatives]; the targets are their softmax instead of
            one-hot (distillation, Hinton et al. 2015).

    Returns:
        Mean cross entropy of both directions (hard negatives count in image-to-text only), and the share of images
        that score their own caption highest.
    """
    own = torch.arange(len(logits), device=logits.device)
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([number[caption] for caption in captions], device=logits.device)
    same = numbers[: len(logits), None] == numbers
    same[own, own] = False
    logits = logits.float().masked_fill(same, _MASKED)
    square = logits[:, : len(logits)].T
    by_row, by_column = own, own
    if teacher is not None:
        teacher = teacher.float().masked_fill(same, _MASKED)
        by_row, by_column = teacher.softmax(1), teacher[:, : len(logits)].T.softmax(1)
    loss = (F.cross_entropy(logits, by_row) + F.cross_entropy(square, by_column)) / 2
    return loss, (logits.argmax(1) == own).float().mean()


def sigmoid(
    logits: torch.Tensor,
    captions: Sequence[str],
    teacher: torch.Tensor | None,
    bias: torch.Tensor | None,
    teacher_bias: torch.Tensor | None,
) -> torch.Tensor:
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023): every image and caption is a question of its own.

    Args:
        logits, captions, teacher: as of `contrast`; the targets are the sigmoids of the teacher's, else 1 for an
            image's own caption, however often it occurs, and 0 for others.
        bias, teacher_bias: added to each's logits; None: - log of the number of captions, at which most answers start
            as no.

    Returns:
        Cross entropy summed over captions, averaged over images.
    """
    start = -math.log(len(captions))
    shift, teacher_shift = (start if each is None else each for each in (bias, teacher_bias))
    if teacher is None:
        number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
        numbers = torch.tensor([number[caption] for caption in captions], device=logits.device)
        targets = (numbers[: len(logits), None] == numbers).float()
    else:
        targets = (teacher.float() + teacher_shift).sigmoid().detach()
    losses = F.binary_cross_entropy_with_logits(logits.float() + shift, targets, reduction="none")
    return losses.sum(1).mean()
