"""Previews against the formula of the paper."""

import numpy as np
import torch

from nbench.scorers.decoders import preview
from nbench.shards.schema import PreviewMap

SDXL = PreviewMap(
    weight=tuple(tuple(w / 255 for w in row) for row in ((60, -60, 25, -70), (60, -5, 15, -50), (60, 10, -5, -35))),  # type: ignore[arg-type]
    bias=(150 / 255, 140 / 255, 130 / 255),
)


def test_sdxl_map_equals_the_papers_formula() -> None:
    latents = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    z0, z1, z2, z3 = latents.double().numpy().transpose(1, 0, 2, 3)
    red = 60 * z0 - 60 * z1 + 25 * z2 - 70 * z3 + 150
    green = 60 * z0 - 5 * z1 + 15 * z2 - 50 * z3 + 140
    blue = 60 * z0 + 10 * z1 - 5 * z2 - 35 * z3 + 130
    expected = np.clip(np.stack([red, green, blue], axis=1), 0, 255) / 255
    assert (expected == 0).any()
    assert (expected == 1).any()
    np.testing.assert_allclose(preview(latents, SDXL).numpy(), expected, atol=1e-6)
    assert preview(latents.half(), SDXL).dtype == torch.float32
