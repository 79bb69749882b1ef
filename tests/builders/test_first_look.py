"""The linear map from latents to RGB."""

from __future__ import annotations

import numpy as np

from nbench.builders.first_look import fit_preview


def test_a_linear_decoder_is_found_again() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 4)), rng.normal(size=3)
    latents = rng.normal(size=(5, 4, 8, 8))
    pixels = np.einsum("rc,bchw->bhwr", weight, latents) + bias
    images = pixels.repeat(4, axis=1).repeat(4, axis=2)
    images += np.tile([[0.1, -0.1], [-0.1, 0.1]], (16, 16))[None, :, :, None]  # detail that pooling averages away
    preview = fit_preview(latents, images)
    assert np.allclose(preview.weight, weight, atol=1e-5)
    assert np.allclose(preview.bias, bias, atol=1e-5)
