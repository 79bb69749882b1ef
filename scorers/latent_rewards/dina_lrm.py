"""DiNa-LRM (Liu et al., arXiv 2602.11146): the first blocks of SD3.5 Medium with a LoRA, and a head on their features.

The latent goes in as the generator sees it, with the timestep of its position; no noise is added. The authors score
finished images by adding noise of .1 to .4 first; here a finished latent is scored as it is, at timestep 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import NbenchError
from ...shards.schema import LatentSpace, PositionInfo
from ..placement import CPU, Placement
from ..protocols import Reads
from ..published import files_fingerprint, load_whole, published_folder, read_tensors, tensor_file
from ..weights import read_config
from .dina_head import RewardHead
from .prompts import EmbeddedPrompts
from .sd3 import SD3Blocks, open_sd3, sd3_fingerprint, sd3_folder
from .spaces import SD3, check_latents, latents_of

MAX_TOKENS = 256
"""Of T5, as the authors score."""


class DiNaLRMScorer:
    """A PairScorer: the reward of a noisy latent.

    Args:
        source: a folder like liuhuohuo/DiNa-LRM-SD35M-12layers: config.json, checkpoint/backbone_lora and
            checkpoint/rm_head.pt. Its config.json names SD3.5 Medium (backbone_model_id: folder or Hub id).

    Raises:
        NbenchError: files are missing, of another kind of model, or the latents are not SD3's.
    """

    reads: Reads = "latent"
    conditioned = True

    def __init__(self, source: str, space: LatentSpace, name: str = "dina-lrm", placement: Placement = CPU) -> None:
        folder = published_folder(source, "DiNa-LRM", "config.json", "checkpoint")
        settings = read_config(folder).get("model")
        if not isinstance(settings, dict) or not isinstance(settings.get("backbone_model_id"), str):
            raise NbenchError(f"{folder / 'config.json'} is not that of a DiNa-LRM: it lacks model.backbone_model_id")
        if settings.get("use_logistic") or not (settings.get("use_lora") or settings.get("freeze_backbone")):
            raise NbenchError(f"{folder} is of an unpublished kind: only DiNa-LRMs with a LoRA can be opened")
        self._settings: dict[str, Any] = settings
        self._base = sd3_folder(settings["backbone_model_id"])
        check_latents(space, latents_of(str(self._base)) or SD3, name)
        checkpoint = folder / "checkpoint"
        self._lora = checkpoint / "backbone_lora" if settings.get("use_lora") else None
        self._head_file = tensor_file(checkpoint, "rm_head")
        files = [self._head_file, folder / "config.json", *([self._lora] if self._lora else [])]
        self.name, self._placement = name, placement
        self.fingerprint = placement.mark(files_fingerprint(files, "dina-lrm", sd3_fingerprint(self._base)))
        self._blocks: SD3Blocks | None = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: the backbone cannot be opened, or tensors are missing.
        """
        if self._blocks is not None:
            return
        settings, placement = self._settings, self._placement
        pipe = open_sd3(self._base, placement)
        if self._lora is not None:
            add_lora(pipe.transformer, self._lora)
        head = RewardHead(
            pipe.transformer.inner_dim,
            len(settings["visual_head_idx"]),
            len(settings["text_head_idx"]),
            **settings.get("reward_head", {}),
        )
        load_whole(head, read_tensors(self._head_file), self._head_file)
        self._head = head.to(placement.device, placement.torch_dtype).eval()
        self._embed = EmbeddedPrompts(lambda prompts: _embedded(pipe, prompts))
        self._blocks = SD3Blocks(pipe.transformer, settings["num_transformer_layers"])

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:
        """Rewards float32 [B] of latents [B, C, h, w] at a position, each with its own prompt."""
        self.load()
        assert self._blocks is not None
        latents = inputs.to(self._placement.device, self._placement.torch_dtype)
        states = self._blocks(latents, 0.0 if at.timestep is None else at.timestep, *self._embed(prompts))
        images = [states.image[index] for index in self._settings["visual_head_idx"]]
        texts = [states.text[index] for index in self._settings["text_head_idx"]]
        rewards: torch.Tensor = self._head(images, texts, states.condition)
        return rewards.float()


def _embedded(pipe: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [P, L, D] and pooled ones [P, E] of prompts, by the pipeline's own text encoders."""
    embeddings, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
    )
    return embeddings, pooled


def add_lora(transformer: torch.nn.Module, folder: Path) -> None:
    """Add the LoRA that peft saved in a folder to the weights of a transformer.

    Raises:
        NbenchError: it is of a kind other than plain LoRA, or does not fit.
    """
    config = json.loads((folder / "adapter_config.json").read_bytes())
    unusual = [name for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if config.get("peft_type") != "LORA" or unusual:
        raise NbenchError(f"{folder} is not a plain LoRA ({', '.join(unusual) or config.get('peft_type')})")
    tensors = read_tensors(tensor_file(folder, "adapter_model"))
    weights = dict(transformer.named_parameters())
    scale = config["lora_alpha"] / config["r"]
    for name, down in tensors.items():
        target, lora, end = name.removeprefix("base_model.model.").partition(".lora_A.")
        if not lora:
            continue
        weight, up = weights.get(f"{target}.weight"), tensors.get(name.replace(".lora_A.", ".lora_B."))
        if weight is None or up is None or weight.shape != (up.shape[0], down.shape[1]):
            raise NbenchError(f"{folder} does not fit the backbone ({target}{lora}{end}): get the published files")
        weight.data += (scale * up.float() @ down.float()).to(weight)
