"""A small head on the denoiser's activations (ProbeSelect, arXiv 2603.02829)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from .placement import CPU, Placement
from .weights import folder_fingerprint, model_folder


class ProbeConfig(BaseModel):
    """A probe's config.json: the layer it reads, its sizes, and the run it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["nbench-probe"] = "nbench-probe"
    layer: str
    dim: int
    hidden: int
    steps: int
    reference: str


class ProbeHead(nn.Module):
    """Maps activations [B, D] and the fraction of steps done to scores [B]: standardized, then one hidden layer."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("std", torch.ones(config.dim))
        self.layers = nn.Sequential(nn.Linear(config.dim + 1, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))

    def forward(self, activations: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Scores [B] of activations [B, D]; done [B] is the fraction of steps, 0..1."""
        features = torch.cat([(activations - self.mean) / self.std, done[:, None]], dim=1)
        scores: torch.Tensor = self.layers(features)[:, 0]
        return scores


class ProbeScorer:
    """A PairScorer for a probe; it ignores prompts, which the activations reflect."""

    conditioned = True

    def __init__(self, head: ProbeHead, name: str = "probe", fingerprint: str = "") -> None:
        self.name, self.reads, self.fingerprint = name, f"activations:{head.config.layer}", fingerprint
        self.width = head.config.dim
        self._head = head

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:
        """Scores float32 [B] of activations [B, D]; compare only candidates of one prompt."""
        device = self._head.mean.device
        done = torch.full((len(inputs),), at.position / self._head.config.steps, device=device)
        return self._head(inputs.to(device), done)


def open_probe(source: str | Path, name: str = "probe", placement: Placement = CPU) -> ProbeScorer:
    """The scorer of a probe from `nbench train probe`.

    Raises:
        NbenchError: the folder does not hold a probe.
    """
    from safetensors.torch import load_file

    folder = model_folder(source)
    try:
        config = ProbeConfig.model_validate_json((folder / "config.json").read_bytes())
    except ValidationError:
        raise NbenchError(f"{source} is not a probe: train one with `nbench train probe`") from None
    head = ProbeHead(config).to(placement.device).eval()
    head.load_state_dict(load_file(folder / "model.safetensors"))
    return ProbeScorer(head, name, folder_fingerprint(folder, "probe"))
