"""InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021) with further captions as extra negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

_NEVER = -1e4
"""A logit that no softmax notices, and yet a number: infinity times a target of 0 would be none."""


def contrast(
    logits: torch.Tensor, captions: Sequence[str], teacher: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy of scaled cosines between B images and their captions.

    Args:
        logits: [B, B + negatives]; the first B columns are the images' own captions, in order.
        captions: the text of every column; a repeated caption is no negative of itself.
        teacher: scaled cosines of another model, [B, B + negatives]: how true each caption is then comes from these,
            by softmax, instead of from whose caption it is (distillation, Hinton et al. 2015).

    Returns:
        Mean cross entropy of both directions (only images are told apart by the extra captions), and the share of
        images whose own caption scores highest.
    """
    own = torch.arange(len(logits), device=logits.device)
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([number[caption] for caption in captions], device=logits.device)
    same = numbers[: len(logits), None] == numbers
    same[own, own] = False
    logits = logits.float().masked_fill(same, _NEVER)
    square = logits[:, : len(logits)].T
    by_row, by_column = own, own
    if teacher is not None:
        teacher = teacher.float().masked_fill(same, _NEVER)
        by_row, by_column = teacher.softmax(1), teacher[:, : len(logits)].T.softmax(1)
    loss = (F.cross_entropy(logits, by_row) + F.cross_entropy(square, by_column)) / 2
    return loss, (logits.argmax(1) == own).float().mean()
