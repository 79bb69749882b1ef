"""Rows computed fall with the living, and the survivors of every family are those of the full run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.pruning import Pruner, is_compiled
from nbench.pipelines.watch import Watch

from ..sampling.live import STEPS, opened, plain, state
from ..tiny_pipelines import Family

SEEDS = [11, 12, 13, 14]
TOLERANCE = 1e-4
"""Of latents of about unit variance, in float32: a product of another size rounds otherwise."""


def pruned(pipe: Any, arguments: dict[str, Any], stages: dict[int, list[int]], **kwargs: Any) -> tuple[Any, Pruner]:
    """Run all seeds, keeping the candidates of `stages` from their positions on."""
    pruner = Pruner(pipe, len(SEEDS))
    with (
        pruner,
        Watch(pipe, lambda _: "nothing", lambda position, *_: pruner.keep(stages.get(position, pruner.living))),
    ):
        return plain(pipe, SEEDS, arguments, **kwargs), pruner


def test_survivors_and_rows_of_every_family(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    full = plain(pipe, SEEDS, arguments)
    before = state(pipe)
    found, pruner = pruned(pipe, arguments, {1: [0, 1, 3], 3: [1]})
    each = 1 if family.guidance == "embedded" else 2
    assert (pruner.rows, pruner.asked) == ((4 * 1 + 3 * 2 + 1 * 2) * each, 4 * STEPS * each)
    assert (found[1] - full[1]).abs().max() <= TOLERANCE * full[1].abs().max().clamp(min=1)  # some reach hundreds
    assert not torch.allclose(found[0], full[0], atol=0.01)  # it had left
    assert state(pipe) == before
    assert torch.equal(plain(pipe, SEEDS, arguments), full)


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "DDPM", "DPMSolverMultistep", "UniPCMultistep"])
def test_noise_drawn_on_the_way_stays_each_candidates_own(sd15_folder: Path, name: str) -> None:
    pipe, arguments = opened(sd15_folder)
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    full = plain(pipe, SEEDS, arguments)
    found, _ = pruned(pipe, arguments, {2: [0, 3]})
    assert (found[[0, 3]] - full[[0, 3]]).abs().max() <= TOLERANCE * full[[0, 3]].std()


def test_only_survivors_are_decoded(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    decoded, decode = [], pipe.vae.decode

    def counted(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(len(latents))
        return decode(latents, *args, **kwargs)

    pipe.vae.decode = counted
    full = plain(pipe, SEEDS, arguments, output_type="np")
    found, _ = pruned(pipe, arguments, {2: [2]}, output_type="np")
    assert decoded == [4, 1]
    assert abs(found[2] - full[2]).max() <= 1e-3
    assert pipe.vae.decode is counted


def test_a_pruner_that_keeps_all_changes_no_bit(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    found, pruner = pruned(pipe, arguments, {})
    assert torch.equal(found, plain(pipe, SEEDS, arguments))
    assert pruner.rows == pruner.asked


def test_the_pipeline_is_restored_after_an_error(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    plain(pipe, SEEDS, arguments)
    before = state(pipe)

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Pruner(pipe, 4), Watch(pipe, lambda _: "nothing", fails):
        plain(pipe, SEEDS, arguments)
    assert state(pipe) == before


def test_rows_that_are_not_the_batchs_are_refused(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    with pytest.raises(NbenchError, match="8 rows for 3 candidates"), Pruner(pipe, 3):
        plain(pipe, SEEDS, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_denoiser_sees_few_sizes(sd15_folder: Path, whole: bool) -> None:
    pipe, arguments = opened(sd15_folder)
    full, sizes = plain(pipe, SEEDS, arguments), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        sizes.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    assert not is_compiled(pipe)
    if whole:
        pipe.unet = torch.compile(pipe.unet, backend=backend)
    else:
        pipe.unet.compile(backend=backend)
    assert is_compiled(pipe)
    plain(pipe, SEEDS, arguments)
    before = state(pipe)
    torch.compiler.reset()
    sizes.clear()
    found, pruner = pruned(pipe, arguments, {1: [0, 1, 3], 2: [1, 3], 3: [1]})
    assert sizes  # it was compiled at all
    assert pruner.rows == 2 * (4 + 4 + 2 + 1 + 1)  # three living are padded to four
    assert (found[1] - full[1]).abs().max() <= TOLERANCE
    assert state(pipe) == before
