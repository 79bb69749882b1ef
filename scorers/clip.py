"""CLIP-like dual encoders as scorers: the cosine of prompt and image (or latent), for any such transformers model.

CLIP: Radford et al., arXiv 2103.00020; SigLIP: arXiv 2303.15343; SigLIP 2: arXiv 2502.14786. PickScore is a CLIP
fine-tuned on preferences, arXiv 2305.01569; NoisyCLIP one fine-tuned on previews of noisy latents, arXiv 2512.08505;
Latent-CLIP one that reads latents, arXiv 2503.08455.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ..errors import NbenchError, reason_of
from ..shards.schema import PositionInfo
from .dual_encoder import check_level, noise_share, open_dual_encoder, unit_scale
from .image_processor import ImageProcessor
from .placement import CPU, Placement
from .protocols import Reads
from .weights import folder_fingerprint, model_folder, read_config

MAX_LENGTH_PADDED = ("siglip", "siglip2")
"""Model types whose text tower was trained with padding to full length and pools the last token."""
LATENTS = ("latent", "x0")
"""What a model reads without an image processor."""
ONE_AT_A_TIME = ("aimv2",)
"""Model types whose text tower is causal in transformers (5.23) only if the batch has padding."""


class CLIPScorer:
    """A TwinTower for any transformers model with an image and a text tower (CLIP, SigLIP, SigLIP 2, ...), frozen.

    The weights are loaded by `load`, or by the first embedding.

    Args:
        source: folder or Hub id with the model, its tokenizer and its preprocessor_config.json.
        name: its name in result tables.
        reads: one of `PICTURES`; a model of latents reads "latent" or "x0" instead.
        processor: folder or Hub id of tokenizer and preprocessing, if not the model's.
        scaled: multiply the cosine by the model's own scale, as PickScore does.
        model: the opened model, if it is not to be read from `source`; it is used as it is, in training too.

    Attributes:
        conditioned: whether the model was trained by nbench to be given the position of what it reads.
        scores_noise: whether it was trained on the initial noise alone (`nbench train noise-prior`).

    Raises:
        NbenchError: no such model.
    """

    def __init__(
        self,
        source: str | Path,
        name: str = "clip",
        reads: Reads = "preview",
        placement: Placement = CPU,
        processor: str | None = None,
        scaled: bool = False,
        model: Any = None,
    ) -> None:
        self._folder = model_folder(source)
        self._texts = self._folder if processor is None else model_folder(processor, weights=False)
        self.name, self._source, self._placement, self._scaled = name, source, placement, scaled
        config = read_config(self._folder) if model is None else model.config.to_dict()
        vision, trained = config.get("vision_config"), config.get("nbench", {})
        self.conditioned, self._told = bool(trained), trained.get("noise_level", "none") != "none"
        self.scores_noise = _trained_positions(self._folder) == [0]
        self._of_latents = trained.get("input") in LATENTS or (
            isinstance(vision, dict) and vision.get("num_channels", 3) != 3
        )
        reads = trained.get("input", reads) if reads == "preview" else reads
        self.reads = "latent" if self._of_latents and reads == "preview" else reads
        parts = ["clip", self.reads, *([processor] if processor else [])]
        if self.conditioned:
            parts.append("unit scale")
        if not self._of_latents and self.reads != "image":
            parts.append("8 bits")  # previews and decoded latents are rounded to 8 bits
        self.fingerprint = placement.mark(folder_fingerprint(self._folder, *parts))
        self._opened = model
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: transformers cannot open the model, or it does not have two towers.
        """
        if self._model is not None:
            return
        from transformers import AutoTokenizer

        source, device = self._source, self._placement.device
        try:
            model = self._opened
            if model is None:
                model = open_dual_encoder(self._folder, dtype=self._placement.torch_dtype).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(self._texts, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise NbenchError(f"transformers cannot open {source} ({reason_of(error)}): name another model") from None
        self._process = None if self._of_latents else ImageProcessor(self._texts, device)
        self._model = model.to(device)

    @property
    def scale(self) -> float:
        """What the cosine is multiplied by."""
        self.load()
        return self._model.logit_scale.exp().item() if self._scaled else 1.0

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm text embeddings float32 [P, D]; longer prompts are truncated."""
        return self.text_features(prompts)

    @torch.inference_mode()
    def embed_inputs(self, inputs: torch.Tensor, at: PositionInfo | None = None) -> torch.Tensor:
        """Unit-norm image embeddings float32 [B, D] of RGB [B, 3, H, W] in 0..1, or of latents [B, C, h, w].

        Args:
            at: the position of the inputs, which a `conditioned` model needs.

        Raises:
            NbenchError: the model is told the noise level, and that of the position is unknown.
        """
        if at is None:
            return self.image_features(inputs)
        if self._told:
            check_level(at)
        inputs = inputs * unit_scale(at) if self.reads == "latent" else inputs
        return self.image_features(inputs, torch.full((len(inputs),), noise_share(at)))

    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """`embed_text` with gradients."""
        self.load()
        if self._model.config.model_type in ONE_AT_A_TIME and len(prompts) > 1:
            return torch.cat([self.text_features([prompt]) for prompt in prompts])
        config, device = self._model.config, self._placement.device
        full = config.model_type in MAX_LENGTH_PADDED
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length" if full else True,
            truncation=True,
            max_length=min(config.text_config.max_position_embeddings, self._tokenizer.model_max_length),
            return_tensors="pt",
        )
        mask = {} if full else {"attention_mask": tokens.attention_mask.to(device)}
        return _unit(self._model.get_text_features(input_ids=tokens.input_ids.to(device), **mask))

    def image_features(self, inputs: torch.Tensor, noise_level: torch.Tensor | None = None) -> torch.Tensor:
        """`embed_inputs` with gradients: latents at their `unit_scale`, and their `noise_level` [B]."""
        self.load()
        device, dtype = self._placement.device, self._model.dtype
        pixels = self._process(inputs, dtype) if self._process else {"pixel_values": inputs.to(device, dtype)}
        if self._told and noise_level is not None:
            pixels["noise_level"] = noise_level.to(device)
        return _unit(self._model.get_image_features(**pixels))


def _trained_positions(folder: Path) -> object:
    """The positions that a model of `nbench train` was trained on; None of all others."""
    try:
        return json.loads((folder / "training.json").read_bytes()).get("positions")
    except (OSError, ValueError, AttributeError):
        return None


def _unit(output: Any) -> torch.Tensor:
    """A tower's embeddings [B, D] as unit-norm float32; FLAVA returns one per token, of which the first is used."""
    embeddings = output.pooler_output
    return functional.normalize((embeddings[:, 0] if embeddings.ndim == 3 else embeddings).float(), dim=-1)
