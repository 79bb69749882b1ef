"""Pipeline aliases, with the settings that their model cards recommend."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shards.schema import PreviewMap
from .lora import Lora

WORLD_PIPELINES = ("shapes", "shapes-unet")
"""The generators of the embedded world."""
WORLD_PIPELINE = Path(__file__).parents[1] / "shapes" / "weights" / "pipeline"
_SDXL_PREVIEW = PreviewMap(
    weight=tuple(
        tuple(value / 255 for value in row) for row in ((60, -60, 25, -70), (60, -5, 15, -50), (60, 10, -5, -35))
    ),  # type: ignore[arg-type]  # mypy does not see three rows
    bias=(150 / 255, 140 / 255, 130 / 255),
)


@dataclass(frozen=True)
class PipelineEntry:
    """A pipeline and its defaults. `source` is a folder or Hub id; `content` a hash of all that is in it.

    `guidance` None leaves the pipeline's own; `scheduler` names a diffusers class to use in place of the stock one;
    `preview` None is fitted by the build. `latent_shape` [C, H, W] and `image_size` (height, width) are those of a call
    without options, None where only the pipeline's files can tell; `patch` latents a side are one of the denoiser's
    tokens, where that limits sizes. `quantize` and `attention` name backends of diffusers; `vae_dtype` None is that of
    the other parts; `variant` is in the names of the weight files. The weights are in `source`, or in the single file
    `checkpoint`.
    """

    name: str
    source: str
    content: str = ""
    guidance: float | None = None
    dtype: str = "float32"
    batch_size: int = 8
    scheduler: str | None = None
    call_kwargs: dict[str, Any] = field(default_factory=dict)
    preview: PreviewMap | None = None
    steps: int = 50
    latent_shape: tuple[int, int, int] | None = None
    image_size: tuple[int, int] | None = None
    patch: int = 1
    quantize: str | None = None
    attention: str | None = None
    vae_dtype: str | None = None
    variant: str | None = None
    loras: tuple[Lora, ...] = ()
    checkpoint: Path | None = None

    @property
    def side_multiple(self) -> int:
        """Heights and widths must be multiples of this; 1 if only the pipeline's files can tell."""
        if self.latent_shape is None or self.image_size is None:
            return 1
        return self.image_size[0] // self.latent_shape[1] * self.patch

    def trajectory_bytes(self, itemsize: int = 2) -> int | None:
        """Bytes of the latents of all positions 0..steps; float16 by default."""
        if self.latent_shape is None:
            return None
        channels, height, width = self.latent_shape
        return (self.steps + 1) * channels * height * width * itemsize


ALIASES = {
    entry.name: entry
    for entry in (
        PipelineEntry(
            "shapes",
            str(WORLD_PIPELINE),
            guidance=7.0,
            batch_size=120,
            latent_shape=(4, 16, 16),
            image_size=(32, 32),
        ),
        PipelineEntry(
            "shapes-unet",
            str(WORLD_PIPELINE.with_name("unet")),
            guidance=2.0,
            batch_size=120,
            latent_shape=(4, 16, 16),
            image_size=(32, 32),
        ),
        PipelineEntry(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            guidance=5.0,
            dtype="float16",
            preview=_SDXL_PREVIEW,
            latent_shape=(4, 128, 128),
            image_size=(1024, 1024),
        ),
        # its stock scheduler, PNDM, calls the denoiser once more than it has steps
        PipelineEntry(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            guidance=7.5,
            dtype="float16",
            scheduler="EulerDiscreteScheduler",
            latent_shape=(4, 64, 64),
            image_size=(512, 512),
        ),
        PipelineEntry(
            "sd35",
            "stabilityai/stable-diffusion-3.5-large",
            guidance=3.5,
            dtype="bfloat16",
            steps=28,
            latent_shape=(16, 128, 128),
            image_size=(1024, 1024),
            patch=2,
        ),
        PipelineEntry(
            "flux",
            "black-forest-labs/FLUX.1-dev",
            guidance=3.5,
            dtype="bfloat16",
            batch_size=4,
            call_kwargs={"height": 1024, "width": 1024, "max_sequence_length": 512},
            latent_shape=(16, 128, 128),
            image_size=(1024, 1024),
            patch=2,
        ),
        # its autoencoder is SDXL's
        PipelineEntry(
            "pixart",
            "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
            guidance=4.5,
            dtype="float16",
            steps=20,
            preview=_SDXL_PREVIEW,
            latent_shape=(4, 128, 128),
            image_size=(1024, 1024),
        ),
        PipelineEntry(
            "sana",
            "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
            guidance=4.5,
            dtype="bfloat16",
            steps=20,
            latent_shape=(32, 32, 32),
            image_size=(1024, 1024),
        ),
        # guides only beside a negative prompt; its card gives a blank one
        PipelineEntry(
            "qwen-image",
            "Qwen/Qwen-Image",
            guidance=4.0,
            dtype="bfloat16",
            batch_size=4,
            call_kwargs={"height": 1328, "width": 1328, "negative_prompt": " "},
            latent_shape=(16, 166, 166),
            image_size=(1328, 1328),
            patch=2,
        ),
        PipelineEntry(
            "z-image",
            "Tongyi-MAI/Z-Image",
            guidance=4.0,
            dtype="bfloat16",
            call_kwargs={"height": 1024, "width": 1024},
            latent_shape=(16, 128, 128),
            image_size=(1024, 1024),
            patch=2,
        ),
    )
}
