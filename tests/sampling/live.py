"""A scorer without weights, and runs of stock pipelines to compare with."""

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
    """The mean of the latent or the image; keeps its inputs in `batches`."""

    fingerprint = "mean"

    def __init__(self, reads: Reads = "latent") -> None:
        self.name, self.reads = "mean", reads
        self.batches: list[torch.Tensor] = []

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        assert len(inputs) == len(prompts)
        self.batches.append(inputs)
        return inputs.flatten(1).mean(1)


def opened(folder: object) -> tuple[Any, dict[str, Any]]:
    """The pipeline in a folder, and its call arguments for `STEPS` steps."""
    entry = resolve_pipeline(str(folder))
    return load_pipeline(entry, "float32", "cpu"), {"num_inference_steps": STEPS, **entry.call_kwargs}


def plain(pipe: Any, seeds: Sequence[int], arguments: dict[str, Any], output_type: str = "latent") -> Any:
    """The output of the stock pipeline for `PROMPT` with the seeds, in one batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    count = len(seeds)
    return pipe(
        prompt=PROMPT, num_images_per_prompt=count, generator=generators, output_type=output_type, **arguments
    ).images


def signals_at(
    pipe: Any, seeds: Sequence[int], arguments: dict[str, Any], reads: Reads = "latent"
) -> dict[int, torch.Tensor]:
    """The signal `reads` of an unpruned run, by position."""
    signals: dict[int, torch.Tensor] = {}

    def report(position: int, latents: torch.Tensor, reported: Mapping[int, Known]) -> None:
        signals.update({at: read_signal() for at, read_signal in reported.items()})

    with Watch(pipe, lambda _: reads, report):
        plain(pipe, seeds, arguments)
    return signals


def state(pipe: Any) -> dict[str, set[str]]:
    """The attribute names of the components that pruning and watching change for a while."""
    parts = {name: getattr(pipe, name, None) for name in ("unet", "transformer", "vae", "scheduler")}
    attributes = {name: set(vars(part)) for name, part in parts.items() if part is not None}
    return {**attributes, "pipe": set(vars(pipe))}
