"""A throw-away task that teaches an image tower to see: name the objects whose centres lie in each patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..grammar import COLOURS, SHAPES
from ..render import SIZE, Drawing

LOOKS = len(COLOURS) * len(SHAPES)


def naming_loss(logits: torch.Tensor, drawing: Drawing, patch_size: int) -> torch.Tensor:
    """Binary cross-entropy per object of `logits` [B, patches, LOOKS] against the objects of a drawing."""
    truth = objects_by_patch(drawing, patch_size)
    return F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum") / truth.sum()


def objects_by_patch(drawing: Drawing, patch_size: int) -> torch.Tensor:
    """float [B, patches, LOOKS]: 1 where an object of that look has its centre in the patch."""
    side = SIZE // patch_size
    present = torch.zeros(len(drawing.images), side * side, LOOKS)
    row, slot = (drawing.shape >= 0).nonzero()
    patch = (drawing.y[row, slot] // patch_size).astype(int) * side + (drawing.x[row, slot] // patch_size).astype(int)
    present[row, patch, drawing.colour[row, slot] * len(SHAPES) + drawing.shape[row, slot]] = 1
    return present
