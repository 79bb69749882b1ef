"""A candidate's noise depends on its own names alone."""

from __future__ import annotations

import doctest
import random

import torch

from nbench.pipelines import candidate_noise as seeds
from nbench.pipelines.candidate_noise import candidate_noise, initial_noise
from nbench.shards.seeds import candidate_seed


def test_seeds_do_not_depend_on_order() -> None:
    names = [(f"p{i}", j) for i in range(20) for j in range(6)]
    forwards = {name: candidate_seed(7, *name) for name in names}
    random.Random(0).shuffle(names)
    assert {name: candidate_seed(7, *name) for name in names[:50]} == {name: forwards[name] for name in names[:50]}
    assert len(set(forwards.values())) == 120
    assert all(0 <= seed < 2**63 for seed in forwards.values())
    assert candidate_seed(8, "p0", 0) != forwards["p0", 0]


def test_noise_is_what_a_stock_pipeline_draws() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    numbers = [candidate_seed(0, "p", i) for i in range(3)]
    generators = [torch.Generator().manual_seed(seed) for seed in numbers]
    drawn = randn_tensor((3, 4, 8, 8), generator=generators, dtype=torch.float32)
    for seed, stock, generator in zip(numbers, drawn, generators, strict=True):
        noise, left = candidate_noise(seed, (4, 8, 8))
        assert torch.equal(noise, stock)
        assert torch.equal(initial_noise(seed, (4, 8, 8)), stock)
        assert torch.equal(left.get_state(), generator.get_state())


def test_documented_seed() -> None:
    assert doctest.testmod(seeds).failed == 0
