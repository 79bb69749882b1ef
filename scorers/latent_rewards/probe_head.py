"""The head of ProbeSelect: principal components of a block's features, the time and a text embedding to a score."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

COMPONENTS, SIDE = 48, 48
TIME_WIDTH, TIME_FEATURES = 512, 64
CHANNELS, POOL, HIDDEN, WIDTH = (128, 256), 3, 512, 256


class ProbeHead(nn.Module):
    """The head, of the published sizes but for the text encoder's; its parts are called as in the checkpoint."""

    def __init__(self, text_width: int = 768) -> None:
        super().__init__()
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps

        self.encoder = _Encoder()
        self.output_head = _mlp(CHANNELS[-1] * (SIDE // 4 // POOL) ** 2, HIDDEN, WIDTH)
        self.time_proj = Timesteps(TIME_FEATURES, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.time_emb = TimestepEmbedding(TIME_FEATURES, TIME_WIDTH)
        self.text_encoder = _mlp(text_width, (WIDTH + text_width) // 2, WIDTH)
        self.final_embed = nn.Sequential(*_mlp(4 * WIDTH, 512, 256, 1), nn.Sigmoid())

    def forward(self, features: torch.Tensor, done: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Scores [B] in 0..1 of features [B, 48, 48, 48], the share of steps done [B], and text embeddings [B, D]."""
        time = self.time_emb(self.time_proj(done).to(features.dtype))
        image, asked = self.output_head(self.encoder(features, time)), self.text_encoder(text)
        both = torch.cat([image, asked, image * asked, (image - asked).abs()], dim=1)
        scores: torch.Tensor = self.final_embed(both)[:, 0]
        return scores


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_blocks import AttnDownBlock2D

        self.encoder_layers = nn.ModuleList(
            AttnDownBlock2D(
                enters,
                leaves,
                TIME_WIDTH,
                resnet_eps=1e-5,
                resnet_act_fn="silu",
                resnet_groups=16,
                attention_head_dim=5,
            )
            for enters, leaves in zip((COMPONENTS, *CHANNELS), CHANNELS, strict=False)
        )

    def forward(self, features: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder_layers:
            features = layer(features, time)[0]
        return nn.functional.avg_pool2d(features, POOL).flatten(1)


def _mlp(*widths: int) -> nn.Sequential:
    """Linear layers with batch norm, ReLU and (in training) dropout after all but the last."""
    layers: list[nn.Module] = []
    for enters, leaves in pairwise(widths[:-1]):
        layers += [nn.Linear(enters, leaves), nn.BatchNorm1d(leaves), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def principal_components(features: torch.Tensor, count: int = COMPONENTS) -> torch.Tensor:
    """The first principal components [B, count, H, W] of the channels of features [B, C, H, W], each row its own.

    Their signs are those of the singular vectors, which the method leaves open.
    """
    flat = features.float().flatten(2)
    centred = flat - flat.mean(dim=2, keepdim=True)
    vectors = torch.linalg.svd(centred, full_matrices=False).U[:, :, :count]
    return (vectors.mT @ centred).unflatten(2, features.shape[2:]).to(features.dtype)
