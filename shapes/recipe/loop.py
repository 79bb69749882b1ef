"""The training loop of all models of the world: AdamW, warm-up and cosine, bfloat16 matmuls, running average, log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...training.saving import save_half

WARM_UP = 200
LOG_EVERY = 50
PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def fit(
    parameters: Iterable[torch.nn.Parameter],
    loss_of_step: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    average: RunningAverage,
    steps: int,
    learning_rate: float,
    log: Path,
) -> list[float]:
    """Minimise `loss_of_step` and write a JSON line every `LOG_EVERY` steps (a fifth of a short run).

    Args:
        loss_of_step: step index -> (scalar loss, further figures to log).
        average: updated after each step; its module ends with the averaged weights.

    Returns:
        The mean loss of each logged stretch.
    """
    every = max(1, min(LOG_EVERY, steps // 5))
    trained = [p for p in parameters if p.requires_grad]
    warm_up = min(WARM_UP, steps // 10)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps, warm_up))
    start, running, losses = time.monotonic(), 0.0, []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        for step in range(steps):
            # on a CPU the flash kernel's backward pass costs more than all the rest for such short sequences
            with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
                loss, figures = loss_of_step(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"step {step}: the gradient is not finite; lower the learning rate ({learning_rate})"
                )
            optimizer.step()
            schedule.step()
            average.update()
            running += loss.item()
            if (step + 1) % every == 0 or step + 1 == steps:
                count = (step % every) + 1
                losses.append(running / count)
                running = 0.0
                line: dict[str, Any] = {
                    "step": step + 1,
                    "loss": round(losses[-1], 5),
                    "seconds": round(time.monotonic() - start, 1),
                }
                out.write(json.dumps(line | {key: round(value, 5) for key, value in figures.items()}) + "\n")
                out.flush()
    average.copy_to_module()
    return losses


def _cosine(step: int, steps: int, warm_up: int) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


class RunningAverage:
    """Exponential moving average of a module's parameters, warmed up so that early steps soon stop counting."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.module, self.decay, self.steps = module, decay, 0
        self.shadow = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.shadow, list(self.module.parameters()), weight)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for shadow, parameter in zip(self.shadow, self.module.parameters(), strict=True):
            parameter.copy_(shadow)


def save_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a transformers model in half precision with its tokenizer and the preprocessing of its images."""
    save_half(model, out)
    tokenizer.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING, indent=2) + "\n")
