"""Decoding is what the stock pipeline does with its latents, and encoding the inverse of its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import Trajectories, generate
from nbench.pipelines.vae import decode, encode

from ..tiny_pipelines import FAMILIES, FLUX2, Family

STEPS = 2


@pytest.fixture(scope="module", params=[*FAMILIES, FLUX2], ids=lambda family: family.name)
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A pipeline of each family, and what it is called with: not square, as patches have rows and columns."""
    family: Family = request.param
    folder = family.saved(tmp_path_factory.mktemp(family.name))
    height = 32 if family.name == "sana" else 16
    arguments = {**family.arguments, "height": height, "width": 2 * height, "num_inference_steps": STEPS}
    return load_pipeline(resolve_pipeline(str(folder)), "float32", "cpu"), arguments


def run(pipe: Any, arguments: dict[str, Any]) -> Trajectories:
    return generate(pipe, ["one red circle", "two blue squares"], [1, 2], [STEPS], arguments)


def assert_decoded(pipe: Any, trajectories: Trajectories) -> None:
    shown = decode(pipe.vae, trajectories.latents[STEPS]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(shown, trajectories.images / 255, atol=0.6 / 255)  # images are stored in whole numbers
    assert trajectories.images.std() > 3  # of 255: there is something to see


def test_decoding_is_that_of_the_stock_pipeline(pipe: tuple[Any, dict[str, Any]]) -> None:
    assert_decoded(pipe[0], run(*pipe))


def test_a_mean_and_a_standard_deviation_as_some_of_sdxl_have(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == "sdxl")
    opened = load_pipeline(resolve_pipeline(str(family.saved(tmp_path))), "float32", "cpu")
    opened.vae.register_to_config(latents_mean=[0.5, -1.0, 2.0, 0.0], latents_std=[2.0, 0.5, 1.0, 3.0])
    assert_decoded(opened, run(opened, {"num_inference_steps": STEPS}))
    assert_inverse(opened.vae, np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3), np.uint8))


def assert_inverse(vae: Any, images: np.ndarray) -> None:
    """The decoder gets back the output of the encoder for encoded images."""
    raw: list[torch.Tensor] = []
    original = {name: getattr(vae, name) for name in ("encode", "decode")}

    def encoded(*args: Any, **kwargs: Any) -> Any:
        output = original["encode"](*args, **kwargs)
        raw.append(output.latent_dist.mode() if hasattr(output, "latent_dist") else output[0])
        return output

    def decoded(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        raw.append(latents)
        return original["decode"](latents, *args, **kwargs)

    vae.encode, vae.decode = encoded, decoded
    try:
        shown = decode(vae, encode(vae, images))
    finally:
        del vae.encode, vae.decode
    assert shown.shape == (len(images), 3, *images.shape[1:3])
    torch.testing.assert_close(raw[1], raw[0], rtol=1e-5, atol=1e-5)


def test_encoding_is_its_inverse(pipe: tuple[Any, dict[str, Any]]) -> None:
    size = (pipe[1]["height"], pipe[1]["width"])
    assert_inverse(pipe[0].vae, np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8))


def test_a_tiny_autoencoder() -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    assert_inverse(vae, np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3), np.uint8))


def test_encoding_is_that_of_the_stock_image_to_image_pipeline(tmp_path: Path) -> None:
    """FLUX.2 prepares images to be edited by the same formula, in packed form."""
    opened = load_pipeline(resolve_pipeline(str(FLUX2.saved(tmp_path))), "float32", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 3), np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        theirs = opened._unpatchify_latents(opened._encode_vae_image(pixels, torch.Generator()))
    torch.testing.assert_close(encode(opened.vae, images), theirs, rtol=1e-5, atol=1e-5)
