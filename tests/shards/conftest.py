"""A small data set with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nbench.shards.schema import CORRUPTION_KINDS, DatasetInfo, PositionInfo, PreviewMap, TrajectoryBatch

from ..dataset_info import build, dataset_info
from .hub.hub_server import HubServer
from .hub.publisher import Publisher

POSITIONS = (0, 10, 20, 30, 50)
SHAPE = (4, 8, 8)


@pytest.fixture
def info() -> DatasetInfo:
    """Four prompts with three candidates each, in shards of five."""
    return dataset_info(
        n_prompts=4,
        candidates=3,
        steps=50,
        rows_per_shard=5,
        stored=(),
        fingerprint="f" * 64,
        spec={"kind": "genai-bench", "pipeline": {"name": "shapes", "content": "c"}, "guidance": 1.5},
        latent_shape=SHAPE,
        image_size=(16, 16),
        positions=tuple(PositionInfo(k, None if k == 50 else 1000.0 - k, 1 - k / 50, 1.0) for k in POSITIONS),
        preview=PreviewMap(((0.1, 0, 0, 0), (0, 0.1, 0, 0), (0, 0, 0.1, 0)), (0.5, 0.5, 0.5)),
    )


@pytest.fixture
def publish(hub: HubServer, tmp_path: Path) -> Publisher:
    """A publisher to the test's Hub."""
    return Publisher(hub, tmp_path / "home")


def rows(numbers: range, failed: int = -1) -> TrajectoryBatch:
    """Rows whose values follow from their numbers; row `failed` has no latents."""
    rng = [np.random.default_rng(number) for number in numbers]
    return TrajectoryBatch(
        prompt_ids=[f"p{number // 3}" for number in numbers],
        prompts=[f"prompt {number // 3}" for number in numbers],
        candidates=[number % 3 for number in numbers],
        seeds=[2**62 + number for number in numbers],
        tags=[{"basic": ["attribute"], "advanced": []} if number // 3 else None for number in numbers],
        corruptions=[dict.fromkeys(CORRUPTION_KINDS, f"c{number}") for number in numbers],
        errors=["not finite" if number == failed else "" for number in numbers],
        latents={k: np.stack([r.normal(size=SHAPE).astype(np.float16) for r in rng]) for k in POSITIONS},
        images=np.stack([r.integers(0, 256, (16, 16, 3), np.uint8) for r in rng]),
    )


@pytest.fixture
def bench_folder(info: DatasetInfo, tmp_path: Path) -> Path:
    """The data set on disk, complete; its row 4 failed."""
    return build(tmp_path / "bench", info, lambda numbers: [rows(numbers, failed=4)])
