"""Dual encoders of transformers (CLIP, SigLIP) that read latents, or are told the noise level of what they read."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import NbenchError
from ..shards.schema import LatentSpace, PositionInfo
from .image_processor import ImageProcessor
from .weights import whole_model

FREQUENCIES = 128
"""Sines and cosines of the noise level's embedding, as in the transformer (Vaswani et al. 2017)."""


def noise_share(at: PositionInfo) -> float:
    """The noise level that models are told: m / (1 + m) with m = noise / (signal + noise), 0..1 for all schedulers."""
    share = _mix(at)[0]
    return share / (1 + share)


def check_level(at: PositionInfo) -> None:
    """Check that a model can be told the noise level at a position.

    Raises:
        NbenchError: it is not recorded, as of trajectories whose engine does not state it.
    """
    if at.sigma is None and at.position > 0:  # at the start, no signal may be left
        raise NbenchError(
            f"the noise level at position {at.position} is not recorded: use a model with --noise-level none, or "
            "import the trajectories again with their sigmas or scheduler"
        )


def unit_scale(at: PositionInfo) -> float:
    """The factor that makes a latent (1 - m) x0 + m noise, as flow matching has it, whatever scheduler made it."""
    return at.input_scale * _mix(at)[1]


def _mix(at: PositionInfo) -> tuple[float, float]:
    """m = noise / (signal + noise), and 1 / (signal + noise) of the latent that the denoiser sees.

    Flow matching states sigma = m = timestep / 1000 (some round it). That of all others is noise / signal, None if no
    signal is left, and their denoisers see latents of unit variance.
    """
    if at.sigma is None:
        return 1.0, 1.0
    if at.timestep is not None and abs(at.timestep - 1000 * at.sigma) <= 1:
        return at.sigma, 1.0
    return at.sigma / (1 + at.sigma), math.hypot(1, at.sigma) / (1 + at.sigma)


class NoiseLevel(nn.Module):
    """Noise levels [B] to `count` vectors per row [B, count, width]: sinusoids, then an MLP that starts with 0."""

    def __init__(self, width: int, count: int = 1) -> None:
        super().__init__()
        self.count = count
        self.enter, self.leave = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, count * width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(FREQUENCIES, device=level.device, dtype=torch.float32) / FREQUENCIES
        angles = 1000 * level.float()[:, None] * torch.exp(-math.log(10_000) * steps)
        features = torch.cat([angles.sin(), angles.cos()], dim=1).to(self.enter.weight.dtype)
        vectors: torch.Tensor = self.leave(functional.silu(self.enter(features)))
        return vectors.unflatten(1, (self.count, -1))


class NoiseAware:
    """Mixin for a dual encoder whose `get_image_features` takes the `noise_level` [B] of its input too.

    "token" adds the embedded level to every token of the image tower; "adaln" scales and shifts what each layer norm of
    its blocks gives (adaptive layer norm, Peebles and Xie 2023). Both start without an effect.
    """

    noise_level: NoiseLevel
    vision_model: Any

    def __init__(self, config: Any, *args: Any, **settings: Any) -> None:
        super().__init__(config, *args, **settings)  # type: ignore[call-arg]  # of the model's class
        vision = config.vision_config
        adaptive = config.nbench["noise_level"] == "adaln"
        self.noise_level = NoiseLevel(vision.hidden_size, 4 * vision.num_hidden_layers if adaptive else 1)
        if not adaptive:
            self.vision_model.embeddings.register_forward_hook(self._add)
            return
        for number, layer in enumerate(_layers(self, "--noise-level adaln", "layer_norm1", "layer_norm2")):
            layer.layer_norm1.register_forward_hook(partial(self._modulate, 4 * number))
            layer.layer_norm2.register_forward_hook(partial(self._modulate, 4 * number + 2))

    def get_image_features(self, pixel_values: torch.Tensor, *, noise_level: torch.Tensor, **inputs: Any) -> Any:
        """As the stock model's, of inputs at a `noise_level` [B] (see `noise_share`)."""
        self._vectors = self.noise_level(noise_level)
        return super().get_image_features(pixel_values=pixel_values, **inputs)  # type: ignore[misc]

    def _add(self, module: nn.Module, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        return tokens + self._vectors

    def _modulate(self, index: int, module: nn.Module, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        scale, shift = self._vectors[:, index, None], self._vectors[:, index + 1, None]
        return tokens * (1 + scale) + shift


def model_class(config: Any) -> Any:
    """The class for a configuration: transformers' own, or a subclass that is told the noise level.

    Raises:
        KeyError: transformers has no model for it.
        NbenchError: it is not a dual encoder.
    """
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING[type(config)]
    if not hasattr(kind, "get_image_features") or not hasattr(kind, "get_text_features"):
        raise NbenchError(f"{config.name_or_path} is a {config.model_type}, not a model with an image and a text tower")
    aware = getattr(config, "nbench", {}).get("noise_level", "none") != "none"
    return type(f"NoiseAware{kind.__name__}", (NoiseAware, kind), {}) if aware else kind


def open_dual_encoder(folder: Path, **settings: Any) -> Any:
    """The dual encoder in a folder, as trained here or any of transformers; `settings` go to `from_pretrained`.

    Raises:
        NbenchError: not a dual encoder, or tensors are missing.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return whole_model(model_class(config), folder, config=config, **settings)


def adapted(model: Any, space: LatentSpace, processor: ImageProcessor, reads: str, noise_level: str) -> Any:
    """A copy of a dual encoder that reads `reads` (latent, x0 or an image) and is told the noise level, or is not.

    It starts as good as before: a layer for latents sees what the RGB one saw of their previews.

    Args:
        processor: the image processor of `model`, whose normalisation a layer for latents takes over.
        noise_level: none, token or adaln.

    Raises:
        NbenchError: latents that are not square or have no preview map, or a tower that cannot be changed.
    """
    config, state = copy.deepcopy(model.config), model.state_dict()
    config.nbench = {"input": reads, "noise_level": noise_level}
    if reads in ("latent", "x0"):
        state |= _latent_layer(model, space, processor, config.vision_config)
    changed = model_class(config)(config)
    levels = (
        {f"noise_level.{name}": value for name, value in changed.noise_level.state_dict().items()}
        if (noise_level != "none")
        else {}
    )
    changed.load_state_dict(state | levels)
    return changed


def deepened(model: Any, times: int) -> Any:
    """A copy of a dual encoder with `times` as many layers in its image tower, and the same embeddings.

    Each layer is followed by copies that add nothing until they are trained: their output projections are zero (block
    expansion, Wu et al. 2024, arXiv:2401.02415).

    Raises:
        NbenchError: a tower that is not made of CLIP's layers.
    """
    model = copy.deepcopy(model)
    tower = []
    for layer in _layers(model, "--deepen", "self_attn.out_proj", "mlp.fc2"):
        tower.append(layer)
        for added in (copy.deepcopy(layer) for _ in range(times - 1)):
            for projection in (added.self_attn.out_proj, added.mlp.fc2):
                nn.init.zeros_(projection.weight)
                nn.init.zeros_(projection.bias)
            tower.append(added)
    model.vision_model.encoder.layers = nn.ModuleList(tower)
    model.config.vision_config.num_hidden_layers = len(tower)
    return model


def _layers(model: Any, option: str, *parts: str) -> Any:
    """The layers of the image tower, for an option that changes some `parts` of each.

    Raises:
        NbenchError: the tower has none, or they are made of other parts.
    """
    layers = getattr(getattr(model.vision_model, "encoder", None), "layers", ())
    present = {name for layer in layers for name, _ in layer.named_modules()}
    if not present.issuperset(parts):
        raise NbenchError(
            f"{option} needs an image tower of CLIP's or SigLIP's layers, which {type(model).__name__} does not have: "
            "leave it out"
        )
    return layers


def _latent_layer(model: Any, space: LatentSpace, processor: ImageProcessor, vision: Any) -> dict[str, torch.Tensor]:
    """The patch embedding for latents: the one for RGB after the linear preview, enlarged to a patch.

    What the preview's bias and the normalisation add to each token goes to the position embeddings. `vision` is changed
    to fit.
    """
    channels, height, width = space.latent_shape
    embeddings = model.vision_model.embeddings
    layer, table = (getattr(embeddings, name, None) for name in ("patch_embedding", "position_embedding"))
    for fits, need in (
        (space.preview is not None, "a data set with a preview map"),
        (height == width, f"square latents, not {height}x{width}"),
        (
            isinstance(layer, nn.Conv2d) and isinstance(table, nn.Embedding),
            "a tower that begins with a convolution and an embedding of positions (CLIP, SigLIP; not NaFlex)",
        ),
    ):
        if not fits:
            raise NbenchError(f"a model of latents needs {need}: use --input preview")
    assert space.preview is not None
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(table, nn.Embedding)
    positions = table.weight
    patch = max(1, round(vision.patch_size * height / vision.image_size))
    before, after = vision.image_size // vision.patch_size, height // patch
    to_rgb, bias, mean, std = (
        torch.tensor(values, dtype=torch.float32)
        for values in (space.preview.weight, space.preview.bias, *processor.normalisation)
    )
    weight = layer.weight.detach().float()
    small = torch.zeros(*weight.shape[:2], patch, patch, requires_grad=True)
    enlarged = functional.interpolate(small, weight.shape[-2:], mode="bilinear")
    (adjoint,) = torch.autograd.grad(enlarged, small, weight)
    prefix = "vision_model.embeddings."
    constant = torch.einsum("drxy,r->d", weight, (bias - mean) / std)
    first = len(positions) - before**2  # CLIP's class token has a position too
    grid = positions[first:].detach().float().T.unflatten(1, (before, before))[None]
    if before != after:
        grid = functional.interpolate(grid, (after, after), mode="bicubic", align_corners=False)
    moved = torch.cat([positions[:first].detach().float(), grid[0].flatten(1).T + constant])
    vision.num_channels, vision.patch_size, vision.image_size = channels, patch, height
    return {
        prefix + "patch_embedding.weight": torch.einsum("drxy,rc->dcxy", adjoint, to_rgb / std[:, None]),
        prefix + "position_embedding.weight": moved,
    }
