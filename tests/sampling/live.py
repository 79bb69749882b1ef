"""A scorer without weights, and pipelines run with and without what is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.watch import Known, Watch
from nbench.scorers.protocols import Reads

PROMPT = "two red circles above one blue square"
STEPS = 5


class Mean:
    """The mean of the latent, or of the image; counts what it was given."""

    fingerprint = "mean"

    def __init__(self, reads: Reads = "latent") -> None:
        self.name, self.reads = "mean", reads
        self.seen: list[torch.Tensor] = []

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        assert len(inputs) == len(prompts)
        self.seen.append(inputs)
        return inputs.flatten(1).mean(1)


def opened(folder: object) -> tuple[Any, dict[str, Any]]:
    """The pipeline in a folder, and what it is to be called with for `STEPS` steps."""
    entry = resolve_pipeline(str(folder))
    return load_pipeline(entry, "float32", "cpu"), {"num_inference_steps": STEPS, **entry.call_kwargs}


def plain(pipe: Any, seeds: Sequence[int], arguments: dict[str, Any], output_type: str = "latent") -> Any:
    """What the stock pipeline makes of `PROMPT` from the seeds, in one batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    count = len(seeds)
    return pipe(
        prompt=PROMPT, num_images_per_prompt=count, generator=generators, output_type=output_type, **arguments
    ).images


def known_at(
    pipe: Any, seeds: Sequence[int], arguments: dict[str, Any], reads: Reads = "latent"
) -> dict[int, torch.Tensor]:
    """All that an unpruned run tells a scorer that reads so, by position."""
    found: dict[int, torch.Tensor] = {}

    def seen(position: int, latents: torch.Tensor, known: Mapping[int, Known]) -> None:
        found.update({at: what() for at, what in known.items()})

    with Watch(pipe, lambda _: reads, seen):
        plain(pipe, seeds, arguments)
    return found


def state(pipe: Any) -> dict[str, set[str]]:
    """The attributes of the parts of a pipeline that pruning and watching touch."""
    parts = {name: getattr(pipe, name, None) for name in ("unet", "transformer", "vae", "scheduler")}
    found = {name: set(vars(part)) for name, part in parts.items() if part is not None}
    return {**found, "pipe": set(vars(pipe))}
