"""A probe: a small head that predicts a reference from the denoiser's activations (ProbeSelect, arXiv 2603.02829)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import NbenchError
from ..scorers.probe import ProbeConfig, ProbeHead
from ..shards.reader import Bench, open_bench
from ..shards.references import finished_scores
from ..shards.scores import scores_at
from .config import ProbeTraining
from .ranking import LOSSES

VALIDATION_SHARE = 10
"""One prompt in this many is held out."""
_GROUPS = 128
"""Prompts at a position whose order is compared at a time; a loss holds all pairs of their candidates."""


class _Rows(NamedTuple):
    """Activations float32 [M, D]; done (fraction of steps, 0..1), reference scores and prompt numbers, each [M]."""

    activations: torch.Tensor
    done: torch.Tensor
    reference: torch.Tensor
    prompts: torch.Tensor


def train_probe(config: ProbeTraining) -> Path:
    """Train and write `config.json`, `model.safetensors` and `training.json` to `config.out`.

    The head learns the differences between the candidates of a prompt at a position, which is what selection needs, or
    their order (`config.objective`).
    Activations identify prompts, so a head soon memorizes its training prompts: the head written is that of the epoch
    with the lowest error on held-out prompts. `training.json` has the share of variance explained there.

    Raises:
        NbenchError: the data lack the activations, the reference, a position, or prompts with two candidates.
    """
    from safetensors.torch import save_file

    bench = open_bench(config.data)
    bench.require_signals([f"activations:{config.layer}"])
    rows = _read(bench, config)
    torch.manual_seed(config.seed)
    shape = ProbeConfig(
        layer=config.layer,
        dim=rows.activations.shape[1],
        hidden=config.hidden,
        steps=bench.info.steps,
        reference=config.reference,
    )
    head = ProbeHead(shape)
    held_out = _held_out(bench, rows.prompts)
    training, validation = (_Rows(*(column[mask] for column in rows)) for mask in (~held_out, held_out))
    if not len(training.done):
        raise NbenchError(f"{config.data} has too few prompts to train a probe on")
    head.mean.copy_(training.activations.mean(0))
    head.std.copy_(training.activations.std(0).clamp(min=1e-6))
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    loss_of = _losses(training, config.objective)
    spread = _within(training.reference, training).pow(2).mean()
    if not spread > 0:
        raise NbenchError(
            f"{config.reference} gives all candidates of a prompt the same score: there is nothing to learn"
        )
    held_out_loss = _losses(validation if len(validation.done) else training, config.objective)
    best, best_error = head.state_dict(), float("inf")
    for _ in range(config.epochs):
        loss = loss_of(head)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.inference_mode():
            error = float(held_out_loss(head))
        if error < best_error:
            best, best_error = {name: values.clone() for name, values in head.state_dict().items()}, error
    head.load_state_dict(best)
    with torch.inference_mode():
        explained = {
            name: float(1 - _error(head, part) / _within(part.reference, part).pow(2).mean())
            for name, part in (("training", training), ("validation", validation))
            if len(part.done)
        }
    config.out.mkdir(parents=True, exist_ok=True)
    save_file(head.state_dict(), config.out / "model.safetensors")
    (config.out / "config.json").write_text(shape.model_dump_json(indent=2) + "\n")
    report = {"data": bench.info.fingerprint, "positions": config.positions, "explained": explained}
    (config.out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return config.out


def _losses(rows: _Rows, objective: str) -> Callable[[ProbeHead], torch.Tensor]:
    """The loss of a head on `rows`: error of the differences, or a loss on their order, over parts of whole groups."""
    if objective == "differences":
        return lambda head: _error(head, rows)
    groups = _groups(rows)
    order = torch.argsort(groups, stable=True)
    parts = order.split(torch.bincount(groups[order] // _GROUPS).tolist())

    def loss(head: ProbeHead) -> torch.Tensor:
        scores = head(rows.activations, rows.done)
        losses = [LOSSES[objective](scores[part], rows.reference[part], groups[part]) for part in parts]
        sizes = torch.tensor([float(len(part)) for part in parts])
        return (torch.stack(losses) * sizes).sum() / sizes.sum()

    return loss


def _error(head: ProbeHead, rows: _Rows) -> torch.Tensor:
    return _within(head(rows.activations, rows.done) - rows.reference, rows).pow(2).mean()


def _within(values: torch.Tensor, rows: _Rows) -> torch.Tensor:
    """`values` [M] minus the mean of their prompt at their position."""
    group = _groups(rows)
    count = torch.bincount(group)
    means = torch.zeros(len(count)).index_add(0, group, values) / count
    return values - means[group]


def _groups(rows: _Rows) -> torch.Tensor:
    """Numbers [M] of the groups to compare within: a prompt's candidates at a position."""
    return torch.unique(torch.stack([rows.prompts.double(), rows.done.double()]), dim=1, return_inverse=True)[1]


def _read(bench: Bench, config: ProbeTraining) -> _Rows:
    positions = bench.select(config.positions)
    if max(positions) >= bench.info.steps:
        raise NbenchError(f"there are no activations at the final position {bench.info.steps}: name others")
    reference = scores_at(finished_scores(bench, config.reference), bench.info.steps)
    numbers = {prompt.prompt_id: number for number, prompt in enumerate(bench.prompts)}
    parts = []
    for batch in bench.batches(positions, signals=(f"activations:{config.layer}",)):
        names = list(zip(batch.prompt_ids, batch.candidates, strict=True))
        scores = np.array([reference.get(name, np.nan) for name in names], np.float32)
        scored = np.isfinite(scores)
        prompts = torch.tensor([numbers[prompt] for prompt in batch.prompt_ids])[scored]
        for position in positions:
            activations = batch.activations[config.layer][position][scored].astype(np.float32)
            done = torch.full((int(scored.sum()),), position / bench.info.steps)
            parts.append(_Rows(torch.from_numpy(activations), done, torch.from_numpy(scores[scored]), prompts))
    if not parts:
        raise NbenchError(f"{config.data} has no candidate with a {config.reference} score")
    return _Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _held_out(bench: Bench, prompts: torch.Tensor) -> torch.Tensor:
    ids = [prompt.prompt_id for prompt in bench.prompts]
    mask = torch.tensor([hashlib.sha256(name.encode()).digest()[0] % VALIDATION_SHARE == 0 for name in ids])
    return mask[prompts]
