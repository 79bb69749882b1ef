"""The head of DiNa-LRM: learned queries attend to features of several blocks, modulated by the noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class RewardHead(nn.Module):
    """Features of image and text tokens to a reward; its parts are called as in the published checkpoint.

    Args:
        features: D, the width of the features and of the condition.
        images, texts: number of blocks whose image and text features it takes.
        width: of the head; -1: D.
    """

    def __init__(
        self,
        features: int,
        images: int,
        texts: int,
        *,
        width: int = -1,
        out_dim: int = 1,
        num_queries: int = 4,
        num_attn_heads: int = 8,
        use_proj_in: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = features if width == -1 else width
        self.layer_adapters_visual = nn.ModuleList(_Adapter(features, width, use_proj_in) for _ in range(images))
        self.layer_adapters_text = nn.ModuleList(_Adapter(features, width, use_proj_in) for _ in range(texts))
        self.agg_visual = nn.Linear(images * (width // 4), width)
        self.agg_text = nn.Linear(texts * (width // 4), width) if texts else None
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, width))
        self.attn1 = _Attention(width, num_attn_heads, with_text=texts > 0, gated=True)
        self.attn2 = _Attention(width, num_attn_heads, with_text=False, gated=False)
        self.norm_ff = nn.RMSNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, out_dim)

    def forward(
        self, images: Sequence[torch.Tensor], texts: Sequence[torch.Tensor], condition: torch.Tensor
    ) -> torch.Tensor:
        """Rewards [B] of features [B, N, D] and [B, L, D], one each per block, and the noise level's embedding [B, D].

        With several outputs the first is the reward.
        """
        image = self.agg_visual(_adapted(self.layer_adapters_visual, images, condition))
        text = self.agg_text(_adapted(self.layer_adapters_text, texts, condition)) if self.agg_text else None
        queries = self.attn2(self.attn1(self.query_tokens.expand(len(condition), -1, -1), image, text), image)
        queries = queries + self.ff(self.norm_ff(queries))
        rewards: torch.Tensor = self.head(queries).mean(dim=1)[:, 0]
        return rewards


class _Adapter(nn.Module):
    """Features of one block, scaled and shifted by the noise level (FiLM), then narrowed to a quarter."""

    def __init__(self, features: int, width: int, project: bool) -> None:
        super().__init__()
        self.proj_in = nn.Linear(features, width) if project or features != width else nn.Identity()
        self.layer_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.cond_mlp = nn.Sequential(nn.Linear(features, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.proj = nn.Linear(width, width // 4)

    def forward(self, tokens: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift = self.cond_mlp(condition)[:, None].chunk(2, dim=-1)
        narrowed: torch.Tensor = self.proj(self.proj_in(tokens) * (1 + scale) + shift + self.layer_embed)
        return narrowed


class _Attention(nn.Module):
    """Queries attend to image tokens and, apart, to text tokens; with `gated`, each token's value has a gate."""

    def __init__(self, width: int, heads: int, with_text: bool, gated: bool) -> None:
        super().__init__()
        self._heads = heads
        self.norm_q, self.norm_v = nn.RMSNorm(width), nn.RMSNorm(width)
        self.to_q, self.to_k_vis, self.to_v_vis = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.gate_vis = _gate(width) if gated else None
        if with_text:
            self.norm_t = nn.RMSNorm(width)
            self.to_k_text, self.to_v_text = nn.Linear(width, width), nn.Linear(width, width)
            self.gate_text = _gate(width) if gated else None

    def forward(self, queries: torch.Tensor, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        asked = self.to_q(self.norm_q(queries))
        heard = self._attend(asked, self.norm_v(image), self.to_k_vis, self.to_v_vis, self.gate_vis)
        if text is not None:
            heard = heard + self._attend(asked, self.norm_t(text), self.to_k_text, self.to_v_text, self.gate_text)
        result: torch.Tensor = queries + self.to_out(heard)
        return result

    def _attend(
        self, asked: torch.Tensor, tokens: torch.Tensor, key: nn.Module, value: nn.Module, gate: nn.Module | None
    ) -> torch.Tensor:
        values = value(tokens) if gate is None else value(tokens) * gate(tokens).sigmoid()
        parts = (part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in (asked, key(tokens), values))
        return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def _gate(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))


def _adapted(adapters: nn.ModuleList, features: Sequence[torch.Tensor], condition: torch.Tensor) -> torch.Tensor:
    return torch.cat([adapter(tokens, condition) for adapter, tokens in zip(adapters, features, strict=True)], dim=-1)
