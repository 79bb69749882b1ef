"""What the trained models reach on held-out scenes: the figures of the model card."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerBase

from ..grammar import CORRUPTION_KINDS, corrupt, scenes
from ..render import render
from .batches import to_pixels


@torch.no_grad()
def clip_prefers_true(model: CLIPModel, tokenizer: PreTrainedTokenizerBase, count: int = 2000, seed: int = 90) -> dict[str, float]:
    """Share of rendered held-out scenes whose true caption CLIP scores above the corrupted one, by kind."""
    chosen = list(itertools.islice(scenes(seed, held_out=True), count))
    pixels = to_pixels(render(chosen, np.random.default_rng(seed)).images)
    rng = random.Random(seed)
    image = model.get_image_features(pixel_values=pixels)
    image = getattr(image, "pooler_output", image)

    def score(captions: list[str]) -> torch.Tensor:
        tokens = tokenizer(captions, padding=True, return_tensors="pt")
        text = model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return torch.cosine_similarity(image, getattr(text, "pooler_output", text))

    true = score([scene.caption for scene in chosen])
    shares = {kind: (true > score([corrupt(s, kind, rng).caption for s in chosen])).float().mean().item() for kind in CORRUPTION_KINDS}
    return shares | {"all": sum(shares.values()) / len(shares)}
