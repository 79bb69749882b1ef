"""The answers of SGLang-Diffusion: of `POST /rollout/generate`, and of its Python generator with trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .trajectory import Steps, numbers_of, steps_of


@dataclass(frozen=True)
class Answer:
    """One image of an engine: its prompt and seed, what was recorded of it [K, ...], and the image if it came along."""

    prompt: str
    seed: int
    latents: torch.Tensor
    steps: Steps
    image: torch.Tensor | None


def sglang_answers(tree: Any, steps: int | None = None) -> list[Answer]:
    """The images of an answer, or of a list of them, in their order; `steps` is T where they do not state it.

    A rollout answers with one entry per image: `dit_trajectory` has `latents` [K, ...], what each step starts from and
    the finished latent last; `sigmas` of 0..T; and, if not all latents are sent, their `latent_step_indices`. The
    generator has `trajectory_latents` [B, T, ...], what each step ends with.

    Raises:
        ValueError: anything else, or positions that cannot be told.
    """
    entries = tree if isinstance(tree, list) else [tree]
    answers, requests = list[Answer](), dict[str, int]()
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
            raise ValueError("holds no answer: an answer has a prompt and dit_trajectory or trajectory_latents")
        if entry.get("dit_trajectory") is not None:
            request = str(entry.get("request_id", len(answers)))
            number = requests[request] = requests.get(request, -1) + 1  # image n of a request has its seed + n
            answers.append(_rollout(entry, number, steps))
        else:
            answers += recorded_after_steps(entry, steps)
    return answers


def _rollout(entry: dict[str, Any], number: int, steps: int | None) -> Answer:
    trajectory = entry["dit_trajectory"]
    latents = trajectory.get("latents") if isinstance(trajectory, dict) else None
    if not isinstance(latents, torch.Tensor):
        raise ValueError("holds no latents: ask for them with rollout_return_dit_trajectory")
    timesteps, sigmas, indices = (trajectory.get(key) for key in ("timesteps", "sigmas", "latent_step_indices"))
    count = len(latents)
    total = len(numbers_of(sigmas)) - 1 if sigmas is not None else steps
    held: list[int]
    if indices is None:
        total = count - 1 if total is None else total
        if count != total + 1:
            raise ValueError(
                f"holds {count} latents of {total} steps and no latent_step_indices: which they are cannot be told"
            )
        held = list(range(count))
    else:
        held = [int(index) for index in numbers_of(indices)]
        if total is None:
            total = len(numbers_of(timesteps)) - 1 if timesteps is not None else held[-1]
    if len(held) != count:
        raise ValueError(f"holds {count} latents and {len(held)} latent_step_indices")
    if timesteps is not None and len(numbers_of(timesteps)) == count not in (total, total + 1):
        timesteps = None  # of the returned latents only: the sigmas say what is needed
    image = entry.get("generated_output")
    return Answer(
        entry["prompt"],
        int(entry.get("seed") or 0) + number,
        latents,
        steps_of(held, total, timesteps, sigmas),
        image if isinstance(image, torch.Tensor) else None,
    )


def recorded_after_steps(entry: dict[str, Any], steps: int | None) -> Iterator[Answer]:
    """The images of an entry with `trajectory_latents` and `trajectory_timesteps`, recorded after each step, or before
    the first one, too: T or T + 1 latents, [K, ...] of one image or [B, K, ...].

    Raises:
        ValueError: neither number, or which axis counts the steps cannot be told.
    """
    latents, timesteps = entry.get("trajectory_latents"), entry.get("trajectory_timesteps")
    if not isinstance(latents, torch.Tensor) or timesteps is None:
        raise ValueError("holds no trajectory_latents and trajectory_timesteps: ask for return_trajectory_latents")
    if isinstance(timesteps, torch.Tensor) and timesteps.ndim == 2:
        timesteps = timesteps[0]
    times = numbers_of(timesteps)
    stated = entry.get("num_inference_steps")
    total = int(stated) if stated is not None else steps
    if total is None:
        raise ValueError("does not state the number of steps: give --steps")
    if len(times) not in (total, total + 1):
        raise ValueError(f"holds {len(times)} timesteps of a run of {total} steps: which they are cannot be told")
    axes = [axis for axis in (0, 1) if latents.ndim > axis + 2 and latents.shape[axis] in (total, total + 1)]
    if len(axes) != 1:
        raise ValueError(f"holds latents {list(latents.shape)}: which axis counts {total} steps cannot be told")
    batch = latents[None] if axes == [0] else latents
    count = batch.shape[1]
    held = range(total + 1 - count, total + 1)
    seed, images = int(entry.get("seed") or 0), _images(entry, len(batch))
    for number, each in enumerate(batch):
        steps_held = steps_of(held, total, times, entry.get("sigmas"))
        yield Answer(entry["prompt"], seed + number, each, steps_held, images[number])


def _images(entry: dict[str, Any], count: int) -> list[torch.Tensor | None]:
    images = entry.get("images", entry.get("samples"))
    if isinstance(images, torch.Tensor):
        images = list(images) if len(images) == count and images.ndim > 3 else [images]
    if images is None:
        return [None] * count
    whole = isinstance(images, list) and len(images) == count
    if not whole or not all(isinstance(each, torch.Tensor) for each in images):
        raise ValueError(f"holds images other than {count} tensors")
    return list(images)
