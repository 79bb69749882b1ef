"""What learns: a model, the part of it that is trained, and its loss on a batch of examples."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import NbenchError
from ..scorers.clip import CLIPScorer
from ..scorers.decoders import preview
from ..scorers.dual_encoder import adapted, deepened, open_dual_encoder
from ..scorers.image_processor import ImageProcessor
from ..scorers.placement import Placement
from ..shards.schema import LatentSpace
from .config import FineTuneConfig, TrainConfig
from .contrast import contrast, sigmoid
from .examples import Examples
from .processes import gathered, share
from .ranking import LOSSES
from .saving import save_half

_CACHED = 100_000
"""Embeddings of frozen towers that are kept, so that later epochs need not compute them again."""
_COPIED = ("tokenizer", "special_tokens", "vocab", "merges", "preprocessor_config", "processor_config", "spiece")

_Texts = Callable[[Sequence[str]], torch.Tensor]
"""Texts to unit-norm embeddings [P, D]."""


class Learner(nn.Module, ABC):
    """A model in training; calling it with a batch of `Examples` gives its loss and accuracy.

    Attributes:
        model: what is trained and saved, in float32.
    """

    title: ClassVar[str]
    memorizes: ClassVar[bool] = False
    """Whether it soon knows its training data by heart: then it is validated at every position, and without a bench the
    checkpoint with the lowest loss there is kept.
    """
    images: bool = True
    """Whether the loss needs the final images."""
    model: Any
    config: Any
    """The recipe, for loggers."""

    def __init__(self, config: FineTuneConfig, space: LatentSpace, folder: Path | None) -> None:
        super().__init__()
        self.settings, self.space, self._folder = config, space, folder

    @abstractmethod
    def forward(self, examples: Examples) -> dict[str, torch.Tensor]:
        """ "loss" and "accuracy" of a batch: the same on all processes, or of each one's rows."""

    @abstractmethod
    def scorer(self) -> Any:
        """The model as a scorer, for evaluation while it trains."""

    def finished(self) -> Any:
        """The transformers model to save."""
        return self.model

    def save(self, out: Path) -> None:
        """Write the finished model to `out`, with the tokenizer and preprocessing of the one it started from."""
        save_half(self.finished(), out)
        assert self._folder is not None
        for path in self._folder.iterdir():
            if path.name.startswith(_COPIED):
                shutil.copyfile(path, out / path.name)

    def inputs(self, examples: Examples) -> torch.Tensor:
        """The model's input: latents, or their previews in 0..1."""
        latents = examples.latents.to(self.device)
        if not self.settings.input.endswith("preview"):
            return latents
        assert self.space.preview is not None
        return preview(latents, self.space.preview)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device


class DualEncoderLearner(Learner):
    """A dual encoder whose image tower learns noisy inputs; `TrainConfig` says what it reads and which losses it has.

    It starts from the model in `folder`; `base` is its frozen teacher, the same or what that was trained from.

    Raises:
        NbenchError: the base is not a dual encoder, or cannot read this input.
    """

    title = "noisyclip"

    def __init__(self, config: TrainConfig, space: LatentSpace, folder: Path, base: Path, device: torch.device) -> None:
        super().__init__(config, space, folder)
        self.settings: TrainConfig = config
        start, trained_here = open_dual_encoder(folder, dtype=torch.float32), base != folder
        if not (hasattr(start, "vision_model") and hasattr(start, "logit_scale")):
            raise NbenchError(
                f"{folder} is a {start.config.model_type}, not built as a CLIP is, and cannot be trained: use a CLIP, "
                "SigLIP, SigLIP 2 or one of their kin"
            )
        teacher = open_dual_encoder(base, dtype=torch.float32) if trained_here else start
        self._weights = config.objectives
        placement = Placement(str(device))
        frozen = teacher.eval().requires_grad_(False)
        self._frozen = CLIPScorer(base, reads="image", placement=placement, model=frozen)
        self._frozen_scale, self._frozen_bias = frozen.logit_scale.exp().item(), getattr(frozen, "logit_bias", None)
        changed = {"input": config.input, "noise_level": config.noise_level}
        before = getattr(start.config, "nbench", {"input": "preview", "noise_level": "none"})
        if trained_here and before != changed:
            was = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in before.items())
            raise NbenchError(f"{folder} was trained with {was}: give the same to train it further")
        if trained_here and config.deepen > 1:
            raise NbenchError(f"{folder} was trained already: leave out --deepen, which is for the base of a model")
        self.model = self._tuned(start if trained_here else self._begun(start, folder))
        self._scorer = CLIPScorer(folder, placement=placement, model=_plain(self.model))
        self._frozen_texts = self._texts = _cached_texts(self._frozen)
        if config.tune == "all":
            self._texts = self._scorer.text_features
        elif trained_here:  # of any base, or with --tune all: scores come from its own text tower
            self._texts = _cached_texts(CLIPScorer(folder, placement=placement))
        if "distill" in self._weights and self._texts(["a"]).shape != self._frozen_texts(["a"]).shape:
            raise NbenchError(
                f"{folder} was trained from another base than {base}, the teacher, whose embeddings have another "
                "width: name its base by --base, beside --start"
            )
        if config.checkpointing:
            if not start.supports_gradient_checkpointing:
                raise NbenchError(f"{type(start).__name__} has no --checkpointing: use --micro-batch to save memory")
            _plain(self.model).gradient_checkpointing_enable({"use_reentrant": False})
        if config.compile:
            _plain(self.model).vision_model.compile()
        self.images = (config.targets == "image" and bool({"contrast", "sigmoid"} & {*self._weights})) or (
            "distill" in self._weights
        )
        self._pictures = _Cache()

    def _begun(self, base: Any, folder: Path) -> Any:
        """The model as training begins: as good as the base."""
        if self.settings.deepen > 1:
            base = deepened(base, self.settings.deepen)
        return adapted(base, self.space, ImageProcessor(folder), self.settings.input, self.settings.noise_level)

    def _tuned(self, model: Any) -> Any:
        """`model` with gradients for what `tune` says; with LoRA, wrapped by peft."""
        model.requires_grad_(False)
        if self.settings.tune == "lora":
            return _with_lora(model, self.settings.lora_rank)
        towers = {
            "vision": ("vision_model", "visual_projection", "noise_level"),
            "projection": ("visual_projection",) if hasattr(model, "visual_projection") else ("vision_model.head",),
            "all": ("",),
        }
        chosen = [values for name, values in model.named_parameters() if name.startswith(towers[self.settings.tune])]
        if not chosen:
            raise NbenchError(f"--tune {self.settings.tune}: this model has no such part; use vision or lora")
        for values in chosen:
            values.requires_grad_(True)
        return model

    def forward(self, examples: Examples) -> dict[str, torch.Tensor]:
        """Accuracy: the share of images that score their own caption highest. All processes state the whole batch's."""
        captions = examples.captions + [text for texts in examples.corrupted for text in texts]
        counts = examples.counts
        noisy = gathered(self._embed(self.inputs(examples), examples.noise_level.to(self.device)), counts)
        clean = gathered(self._clean(examples), counts) if self.images else None
        logits = _plain(self.model).logit_scale.exp() * noisy @ self._text(captions, self._texts).T
        teacher = None
        if clean is not None and self.settings.targets == "image":
            teacher = self._frozen_scale * clean @ self._text(captions, self._frozen_texts).T
        contrasted, accuracy = contrast(logits, captions, teacher)
        reference, groups = examples.reference.to(self.device), examples.groups.to(self.device)
        loss = logits.new_zeros(())
        for name, weight in self._weights.items():
            if name == "contrast":
                term = contrasted
            elif name == "sigmoid":
                bias = getattr(_plain(self.model), "logit_bias", None)
                term = sigmoid(logits, captions, teacher, bias, self._frozen_bias)
            elif name == "distill":
                assert clean is not None
                term = (1 - (noisy * clean).sum(1)).mean()
            else:
                own = logits[:, : len(examples)].diagonal()
                term = LOSSES[name](own, reference, groups)
            loss = loss + weight * term
        return {"loss": loss, "accuracy": accuracy}

    def scorer(self) -> CLIPScorer:
        return self._scorer

    def finished(self) -> Any:
        return self.model.merge_and_unload() if self.settings.tune == "lora" else self.model

    def _embed(self, inputs: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Embeddings [b, D], in parts if a batch is larger than `micro_batch`: each is computed again for its
        gradients, so that only one part's activations are in memory (as in GradCache, Gao et al. 2021).
        """
        size = self.settings.micro_batch or len(inputs)
        embed = self._scorer.image_features
        if len(inputs) <= size or not torch.is_grad_enabled():
            return embed(inputs, level)
        pairs = zip(inputs.split(size), level.split(size), strict=True)
        return torch.cat([checkpoint(embed, part, levels, use_reentrant=False) for part, levels in pairs])

    def _text(self, captions: Sequence[str], embed: _Texts) -> torch.Tensor:
        """Unit-norm embeddings [M, D]; each process embeds a part of them."""
        distinct = list(dict.fromkeys(captions))
        rank, world = share()
        counts = [len(distinct[number::world]) for number in range(world)]
        rows = gathered(embed(distinct[rank::world]), counts)
        order = [text for number in range(world) for text in distinct[number::world]]
        index = {text: row for row, text in enumerate(order)}
        return rows[[index[caption] for caption in captions]]

    def _clean(self, examples: Examples) -> torch.Tensor:
        """The frozen tower's embeddings [b, D] of the final images of this process's rows."""

        def embed(places: list[int]) -> torch.Tensor:
            return self._frozen.embed_inputs(examples.images.decoded(places).to(self.device))

        return self._pictures(examples.keys[examples.own], embed)


class _Cache:
    """Embeddings of a frozen tower that are computed once."""

    def __init__(self) -> None:
        self._rows = dict[Hashable, torch.Tensor]()

    def __call__(self, keys: Sequence[Hashable], embed: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """Embeddings [P, D] of P different keys; `embed` computes those of the keys at some places."""
        absent = [place for place, key in enumerate(keys) if key not in self._rows]
        if len(self._rows) + len(absent) > _CACHED:
            self._rows.clear()
            absent = list(range(len(keys)))
        if absent:
            rows = embed(absent)
            self._rows |= {keys[place]: row.clone() for place, row in zip(absent, rows, strict=True)}
        return torch.stack([self._rows[key] for key in keys])


def _cached_texts(scorer: CLIPScorer) -> _Texts:
    """`embed_text` of a frozen text tower."""
    cache = _Cache()
    return lambda texts: cache(texts, lambda places: scorer.embed_text([texts[place] for place in places]))


def _with_lora(model: Any, rank: int) -> Any:
    """`model` with adapters in the attention and the MLPs of its image tower; new layers are trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise NbenchError("--tune lora needs the package peft: pip install 'nbench[lora]'") from None
    new = [name for name in ("noise_level",) if hasattr(model, name)]
    layers = [
        name
        for name, module in model.named_modules()
        if name.startswith("vision_model.encoder") and isinstance(module, nn.Linear)
    ]
    if not layers:
        raise NbenchError(f"--tune lora finds no layers in the image tower of {type(model).__name__}: use vision")
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, modules_to_save=new))
    if getattr(model.config, "nbench", {}).get("input") in ("latent", "x0"):
        for values in _plain(wrapped).vision_model.embeddings.parameters():
            values.requires_grad_(True)
    return wrapped


def _plain(model: Any) -> Any:
    """The transformers model, without peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
