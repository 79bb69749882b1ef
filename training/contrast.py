"""InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021) with further captions as extra negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def contrast(logits: torch.Tensor, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy of scaled cosines between B images and their captions.

    Args:
        logits: [B, B + negatives]; the first B columns are the images' own captions, in order.
        captions: the text of every column; a repeated caption is no negative of itself.

    Returns:
        Mean cross entropy of both directions (only images are told apart by the extra captions), and the share of
        images whose own caption scores highest.
    """
    own = torch.arange(len(logits), device=logits.device)
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([number[caption] for caption in captions], device=logits.device)
    same = numbers[: len(logits), None] == numbers
    same[own, own] = False
    logits = logits.float().masked_fill(same, -torch.inf)
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits[:, : len(logits)].T, own)) / 2
    return loss, (logits.argmax(1) == own).float().mean()
