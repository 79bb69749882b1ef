"""The forward process: adds noise to encoded images, with only the autoencoder and scheduler of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...errors import NbenchError, reason_of
from ...pipelines.aliases import PipelineEntry
from ...pipelines.find import resolve_pipeline
from ...pipelines.options import pipeline_class
from ...pipelines.quiet import quieten_diffusers
from ...pipelines.sizes import image_size, read_json
from ...shards.dataset import DatasetFolder
from ...shards.schema import PositionInfo
from ..candidates import Candidates, Plan, Resolve
from ..config import BuildConfig
from ..images.given import given_images, on_hub, write_ratings
from ..images.source import ChosenImages, load_image
from ..planning.counts import Count, count_published_images, count_read, png_share
from ..planning.timing import Timing, time_batches
from ..prompts.choose import PromptSet
from ..prompts.rows import Prompt
from ..spec import build_spec

if TYPE_CHECKING:
    from ...pipelines.generate import Trajectories

_FILES = ("model_index.json", "*/config.json", "vae/*.safetensors", "scheduler/*")
"""The files of a pipeline that are fetched from the Hub: no denoiser, no text encoder."""


@dataclass(frozen=True)
class LoadedAutoencoder:
    """An autoencoder and a scheduler at work on images; `size` is their height and width.

    Position k of a run of T steps is alpha_k x0 + sigma_k eps: x0 is the encoded image, as pipelines scale latents, and
    eps the noise of the candidate's seed, the same at all positions. Position T is x0 itself.
    """

    vae: Any
    images: ChosenImages
    size: tuple[int, int]
    positions: list[PositionInfo]
    scales: list[tuple[float, float]]

    def make(
        self,
        candidates: Candidates,
        positions: Collection[int],
        signals: Collection[str],
        on_step: Callable[[float], None] = lambda share: None,
    ) -> Trajectories:
        """Trajectories of the candidates, in one step; an image that cannot be read is black, with its error."""
        import torch

        from ...pipelines.candidate_noise import initial_noise
        from ...pipelines.generate import Trajectories
        from ...pipelines.vae import encode

        count = len(candidates.cells)
        pixels, errors = np.zeros((count, *self.size, 3), np.uint8), [""] * count
        for i, (number, candidate) in enumerate(candidates.cells):
            try:
                pixels[i] = load_image(self.images.encoded(number * self.images.candidates + candidate), self.size)
            except ValueError as error:
                errors[i] = str(error)
        x0 = encode(self.vae, pixels)
        noise = torch.stack([initial_noise(seed, tuple(x0.shape[1:])) for seed in candidates.seeds])
        latents = {k: self.scales[k][0] * x0 + self.scales[k][1] * noise for k in positions}
        return Trajectories(latents, pixels, self.positions, tuple(errors))

    def note(self, prompts: Sequence[Prompt]) -> str:
        """No warning: captions are not encoded."""
        return ""


@dataclass(frozen=True)
class Forward:
    """The build of `config` of images and their captions; see `Process`."""

    config: BuildConfig

    def __getstate__(self) -> dict[str, BuildConfig]:
        """Another process opens the images itself."""
        return {"config": self.config}

    @cached_property
    def _captions_and_images(self) -> tuple[PromptSet, ChosenImages]:
        return given_images(self.config)

    @cached_property
    def _entry(self) -> PipelineEntry:
        return self._found(resolve_pipeline)

    def _found(self, resolve: Resolve) -> PipelineEntry:
        entry = resolve(self.config.pipeline, self.config.options, _FILES)
        if entry.checkpoint:
            raise NbenchError("--process forward reads the VAE of a folder, not of a single file: give a folder")
        return entry

    def choose(self) -> PromptSet:
        """The selected captions."""
        return self._captions_and_images[0]

    def plan(self, chosen: PromptSet, resolve: Resolve = resolve_pipeline) -> Plan:
        """Each caption with its images; the spec leaves out the arguments of the denoiser, which does not run."""
        images = self._captions_and_images[1]
        images = replace(images, numbers=images.numbers[: len(chosen.prompts)])
        config, entry = replace(self.config, candidates=images.candidates), self._found(resolve)
        size = image_size(entry)
        spec = build_spec(config, entry, chosen.prompts, chosen.source) | {
            "guidance": None,
            "call_kwargs": {},
            "process": "forward",
            "images": {**images.spec(), "size": list(size), "fit": "cover, centre", "encoded": "mean"},
        }
        return Plan(config, entry, chosen.prompts, spec)

    def load(self, plan: Plan) -> LoadedAutoencoder:
        """The autoencoder and the images."""
        return self._load(self._captions_and_images[1])

    def finish(self, plan: Plan, folder: DatasetFolder) -> None:
        """Write the human ratings of the images, if there are any."""
        write_ratings(plan, self._captions_and_images[1], folder)

    def count(self, image_size: tuple[int, int]) -> Count:
        """The captions and images, read unless they are published; a sample tells how well images compress."""
        if on_hub(self.config.images):
            return count_published_images(self.config)
        captions, images = self._captions_and_images
        return count_read(self.config.kind, captions.prompts, images.candidates, png_share(images, image_size))

    def row_work(self, rows_a_step: int) -> tuple[int, int]:
        """No denoiser row; one image is encoded."""
        return 0, 1

    def time(self) -> Timing:
        """Encode images of the build, repeated to fill a batch, and add noise for all stored positions."""
        config, size = self.config, self.config.batch_size or self._entry.batch_size
        few = replace(config, limit=min(size, config.limit or size), sample=None)
        loaded = self._load(_in_memory(given_images(few)[1], size))

        def make(batch: int) -> Trajectories:
            candidates = Candidates([(number, 0) for number in range(batch)], [""] * batch, range(batch))
            return loaded.make(candidates, config.stored, config.signals)

        return time_batches(make, size)

    def _load(self, images: ChosenImages) -> LoadedAutoencoder:
        import torch

        from ...pipelines.noise_levels import noise_scales, run_positions, set_timesteps
        from ...pipelines.schedulers import swapped
        from ...pipelines.vae import encode
        from ...pipelines.whole_parts import whole_parts

        entry = self._entry
        dtype = entry.vae_dtype or self.config.dtype or entry.dtype
        quieten_diffusers()
        folder = Path(entry.source)
        index = read_json(folder / "model_index.json")
        try:
            variant = entry.variant if any((folder / "vae").glob(f"*.{entry.variant}*")) else None
            with whole_parts():
                vae = _part(index, "vae").from_pretrained(
                    folder / "vae", torch_dtype=getattr(torch, dtype), variant=variant
                )
            scheduler = _part(index, "scheduler").from_pretrained(folder / "scheduler")
        except Exception as error:  # diffusers and what it loads with raise a dozen unrelated types
            raise NbenchError(
                f"diffusers cannot open the vae and scheduler of {entry.name} ({reason_of(error)})"
            ) from error
        if vae.config.get("force_upcast"):
            vae = vae.float()  # SDXL's overflows in float16
        vae = vae.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
        if entry.scheduler:
            scheduler = swapped(SimpleNamespace(scheduler=scheduler), entry.scheduler)
        size = image_size(entry)
        shape = encode(vae, np.zeros((1, *size, 3), np.uint8)).shape
        set_timesteps(scheduler, index["_class_name"], self.config.n_steps, (shape[2], shape[3]))
        positions = run_positions(scheduler)
        return LoadedAutoencoder(vae, images, size, positions, [*noise_scales(scheduler), (1.0, 0.0)])

    @staticmethod
    def reload(spec: Mapping[str, Any], pipeline: str | None, loras: Sequence[str] = ()) -> NoReturn:
        """Refuse.

        Raises:
            NbenchError: always, since a data set stores its images resized and cropped.
        """
        raise NbenchError(
            "its latents are made of images that are not stored as they were: to compare, build again with the same "
            "--images and another --out"
        )


def _in_memory(images: ChosenImages, most: int) -> ChosenImages:
    """The first images, at most `most`, repeated from memory: the disk and the Hub are not timed."""
    encoded = [images.encoded(row) for row in range(min(most, len(images.numbers) * images.candidates))]
    return ChosenImages(replace(images.source, read=lambda row, _: encoded[row % len(encoded)]), range(most), 1)


def _part(index: dict[str, Any], name: str) -> Any:
    """The class of a pipeline's component; only diffusers' own classes are run."""
    import diffusers

    library, kind = (index.get(name) or (None, None))[:2]
    component = getattr(diffusers, kind, None) if library == "diffusers" and isinstance(kind, str) else None
    if component is None or pipeline_class(index) is None:
        raise NbenchError(f"the pipeline has no {name} of diffusers, which the forward process needs: choose another")
    return component
