"""Trains the world's CLIP: InfoNCE over the batch, with all four corrupted captions as extra negatives."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from ...training.contrast import contrast
from ..grammar import CORRUPTION_KINDS
from ..tokenizer import MAX_CAPTION_TOKENS, build_tokenizer, words
from .batches import batches
from .loop import RunningAverage, fit, save_model
from .naming import LOOKS, naming_loss

PATCH = 8
NAMING_WEIGHT = 0.3


def build_clip() -> CLIPModel:
    """A stock CLIPModel for 32x32 images; linear layers start from Xavier, since CLIP's own small start is slow."""
    vocabulary = words()
    config = CLIPConfig(
        text_config=dict(
            vocab_size=len(vocabulary),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_CAPTION_TOKENS,
            hidden_act="gelu",
            pad_token_id=0,
            projection_dim=128,
            bos_token_id=vocabulary.index("<start>"),
            eos_token_id=vocabulary.index("<end>"),
        ),
        vision_config=dict(
            image_size=32,
            patch_size=PATCH,
            hidden_size=160,
            intermediate_size=640,
            num_hidden_layers=4,
            num_attention_heads=4,
            hidden_act="gelu",
            projection_dim=128,
        ),
        projection_dim=128,
    )
    model = CLIPModel(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return model


def train(out: Path, steps: int, batch_size: int = 128, seed: int = 1) -> list[float]:
    """Train both towers from nothing and save the model to `out`; returns the losses.

    A throw-away head on the image tokens names the objects in each patch: the tower learns to see objects long before
    it learns to match captions.
    """
    torch.manual_seed(seed)
    model, tokenizer, source = build_clip(), build_tokenizer(MAX_CAPTION_TOKENS), batches(seed, batch_size)
    naming = torch.nn.Linear(model.config.vision_config.hidden_size, LOOKS)
    trained = torch.nn.ModuleList([model, naming])
    average = RunningAverage(trained, 0.998)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = next(source)
        captions = batch.with_corrupted(CORRUPTION_KINDS)
        tokens = tokenizer(captions, padding=True, return_tensors="pt")
        text = model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        vision = model.vision_model(_sometimes_blurred(batch.pixels))
        image = F.normalize(model.visual_projection(vision.pooler_output).float(), dim=-1)
        logits = model.logit_scale.exp() * image @ F.normalize(text.pooler_output.float(), dim=-1).T
        loss, accuracy = contrast(logits, captions)
        named = naming_loss(naming(vision.last_hidden_state[:, 1:]), batch.drawing, PATCH)
        return loss + NAMING_WEIGHT * named, {"accuracy": accuracy.item(), "naming": named.item()}

    losses = fit(trained.parameters(), loss_of_step, average, steps, 1e-3, out / "train.jsonl")
    save_model(model, tokenizer, out)
    return losses


def _sometimes_blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Every second image at half its resolution, as a preview has, so that the model also learns clean previews."""
    half = F.interpolate(F.avg_pool2d(pixels[::2], 2), scale_factor=2, mode="bicubic").clamp(-1, 1)
    return torch.stack([half, pixels[1::2]], 1).flatten(0, 1)
