"""ProbeSelect (Guo et al., arXiv 2603.02829): a head on a middle block of the generator itself, SD3.5 Medium or Large.

The published code takes every second row of a guided batch: of one image the row of the empty prompt, as here. Its data
were made with position k of T as time k / T, as here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ...errors import NbenchError
from ...shards.schema import LatentSpace, PositionInfo
from ..image_reward import NativeImageRewardScorer
from ..placement import CPU, Placement
from ..protocols import Reads
from ..published import files_fingerprint, load_whole, published_folder, read_tensors, tensor_file
from ..weights import read_config
from .probe_head import SIDE, ProbeHead, principal_components
from .prompts import EmbeddedPrompts
from .sd3 import SD3Blocks, open_sd3, sd3_fingerprint, sd3_folder
from .spaces import SD3, check_latents, latents_of

BLOCKS = 21
"""The features are those after this many blocks."""
HEADS = ("SD3M_IR_ema", "SD3L_IR_ema")
"""Files of the published heads, of SD3.5 Medium (24 blocks) and Large (38)."""
LARGE = 30


class ProbeSelectScorer:
    """A PairScorer: the head's score of a noisy latent and a prompt, 0..1.

    Args:
        source: a folder with SD3M_IR_ema.ckpt or SD3L_IR_ema.ckpt, and with ImageReward's files (see
            `NativeImageRewardScorer`), whose text encoder it uses.
        space: of the bench or pipeline, which is opened: heads belong to their generator.

    Raises:
        NbenchError: files are missing, or the pipeline is not SD3's or not at hand.
    """

    reads: Reads = "latent"
    conditioned = True
    run_steps: int

    def __init__(self, source: str, space: LatentSpace, name: str = "probe-select", placement: Placement = CPU) -> None:
        folder = published_folder(source, "ProbeSelect")
        try:
            self._base = sd3_folder(space.pipeline)
        except NbenchError as error:
            raise NbenchError(f"{name} reads features of the generator itself, which must be SD3.5: {error}") from None
        check_latents(space, latents_of(str(self._base)) or SD3, name)
        if not space.steps:
            raise NbenchError(f"{name} must know how many steps a run has: use it with evaluate or sample")
        if space.latent_shape[1] != space.latent_shape[2]:
            raise NbenchError(f"{name} reads square latents: use a bench of square images")
        self._head_file = tensor_file(folder, HEADS[_blocks(self._base) > LARGE])
        self._texts = NativeImageRewardScorer(folder, placement=placement)
        self.name, self._placement, self.run_steps = name, placement, space.steps
        parts = (sd3_fingerprint(self._base), self._texts.fingerprint)
        self.fingerprint = placement.mark(files_fingerprint([self._head_file], "probe-select", *parts))
        self._blocks: SD3Blocks | None = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: the pipeline cannot be opened, or tensors are missing.
        """
        if self._blocks is not None:
            return
        placement = self._placement
        self._texts.load()
        head = ProbeHead(self._texts.text_width)
        load_whole(head, read_tensors(self._head_file), self._head_file)
        self._head = head.to(placement.device, placement.torch_dtype).eval()
        self._embed = EmbeddedPrompts(lambda prompts: (self._texts.text_features(prompts),))
        pipe = open_sd3(self._base, placement)
        with torch.inference_mode():
            embeddings, _, pooled, _ = pipe.encode_prompt("", None, None, do_classifier_free_guidance=False)
        self._empty, self._patch = (embeddings, pooled), pipe.transformer.config.patch_size
        self._blocks = SD3Blocks(pipe.transformer, BLOCKS)

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:
        """Scores float32 [B] of latents [B, C, h, w] at a position, each with its own prompt."""
        self.load()
        assert self._blocks is not None
        latents = inputs.to(self._placement.device, self._placement.torch_dtype)
        empty = (part.expand(len(latents), *part.shape[1:]) for part in self._empty)
        tokens = self._blocks(latents, 0.0 if at.timestep is None else at.timestep, *empty).image[-1]
        features = functional.interpolate(_unpatched(tokens, self._patch), (SIDE, SIDE), mode="bilinear")
        done = torch.full((len(latents),), at.position / self.run_steps, device=latents.device)
        (texts,) = self._embed(prompts)
        scores: torch.Tensor = self._head(principal_components(features), done, texts)
        return scores.float()


def _unpatched(tokens: torch.Tensor, patch: int) -> torch.Tensor:
    """Features [B, D / p^2, h p, w p] of the tokens [B, h w, D] of square latents."""
    side = math.isqrt(tokens.shape[1])
    parts = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _blocks(folder: Path) -> int:
    blocks: Any = read_config(folder / "transformer").get("num_layers")
    return int(blocks)
