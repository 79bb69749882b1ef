"""The forward process: its noise against formulas, stock schedulers and reverse runs; whole builds of given images."""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from nbench.benchmarks.human_agreement import human_agreement, open_inputs
from nbench.benchmarks.scoring.references import add_references
from nbench.benchmarks.scoring.references_config import AddConfig
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.regenerate import regenerate
from nbench.errors import NbenchError
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.pipelines.candidate_noise import initial_noise
from nbench.pipelines.noise_levels import noise_scales
from nbench.pipelines.options import PipelineOptions
from nbench.pipelines.vae import encode
from nbench.shards.dataset import read_info
from nbench.shards.reader import open_bench
from nbench.shards.verify import verify

from ..forked import run_program
from ..tiny_pipelines import Family
from .conftest import DIES, save_scenes

COUNT, STEPS = 6, 4


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scenes(tmp_path_factory.mktemp("scenes"), COUNT)


@pytest.fixture
def forward_config(scenes: Path, tmp_path: Path) -> BuildConfig:
    return BuildConfig(
        "ncc",
        process="forward",
        images=scenes,
        out=tmp_path / "out",
        steps=STEPS,
        latent_dtype="float32",
        rows_per_shard=4,
        batch_size=3,
    )


def formula(pipeline: str, sigma: float) -> tuple[float, float]:
    """By hand: how much of the image and of the noise a pipeline's latent of that sigma has."""
    kind = "flow" if pipeline in ("sd3", "flux", "sana", "qwen-image", "z-image") else pipeline
    keeps_variance = 1 / math.sqrt(1 + sigma**2)
    return {
        "flow": (1 - sigma, sigma),
        "sdxl": (1.0, sigma),  # Euler
        "sd15": (keeps_variance, sigma * keeps_variance),  # DDIM
        "pixart": (keeps_variance, sigma * keeps_variance),  # DPM-Solver++
    }[kind]


def test_latents_of_every_family_are_those_of_its_own_schedule(
    family: Family, family_folder: Path, tmp_path: Path
) -> None:
    common = {"pipeline": str(family_folder), "steps": STEPS, "latent_dtype": "float32", "dtype": "float32"}
    texts = tmp_path / "prompts.txt"
    texts.write_text("a red circle\n")
    side = 32 if family.name == "sana" else 16
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(pixels).save(images / "0.png")
    shutil.copy(texts, images / "0.txt")
    build(BuildConfig("ncc", prompts=texts, out=tmp_path / "reverse", **common), progress=False)  # type: ignore[arg-type]
    size = PipelineOptions(height=side, width=side)
    forward = BuildConfig("ncc", process="forward", images=images, out=tmp_path / "forward", options=size, **common)  # type: ignore[arg-type]
    build(forward, progress=False)
    there, here = read_info(tmp_path / "reverse"), read_info(tmp_path / "forward")
    assert here.positions == there.positions
    assert here.latent_shape == there.latent_shape
    batch = next(open_bench(tmp_path / "forward").batches(here.stored, images=True))
    assert batch.images is not None
    assert (batch.images[0] == pixels).all()
    x0, noise = batch.latents[STEPS][0], initial_noise(batch.seeds[0], here.latent_shape).numpy()
    for position in here.positions[:-1]:
        assert position.sigma is not None
        kept, added = formula(family.name, position.sigma)
        np.testing.assert_allclose(batch.latents[position.position][0], kept * x0 + added * noise, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["EulerDiscrete", "EulerAncestralDiscrete", "DDIM", "DDPM", "UniPCMultistep", "DEISMultistep"]
)
def test_noise_is_what_the_scheduler_adds(name: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(beta_schedule="scaled_linear")
    scheduler.set_timesteps(10)
    x0, noise = torch.randn(2, 1, 3, 2, 2)
    for timestep, (kept, added) in zip(scheduler.timesteps, noise_scales(scheduler), strict=True):
        theirs = scheduler.add_noise(x0, noise, timestep.reshape(1))
        torch.testing.assert_close(kept * x0 + added * noise, theirs, atol=1e-5, rtol=1e-4)


def test_a_flow_scheduler_scales_noise_so() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    x0, noise = torch.randn(2, 1, 3, 2, 2)
    for timestep, (kept, added) in zip(scheduler.timesteps, noise_scales(scheduler), strict=True):
        torch.testing.assert_close(kept * x0 + added * noise, scheduler.scale_noise(x0, timestep.reshape(1), noise))


def test_a_scheduler_without_noise_levels_is_refused() -> None:
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(NbenchError, match="IPNDMScheduler has no noise levels"):
        noise_scales(scheduler)


def test_the_decoded_latent_shows_the_image(forward_config: BuildConfig) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(WORLD_PIPELINE / "vae")
    report = build(forward_config, progress=False)
    assert (report.rows, report.built, report.failed) == (COUNT, COUNT, 0)
    batch = next(open_bench(forward_config.folder).batches([STEPS], images=True))
    scaled = torch.from_numpy(batch.latents[STEPS].copy()) / vae.config.scaling_factor
    with torch.inference_mode():
        decoded = vae.decode(scaled + (vae.config.shift_factor or 0)).sample
    shown = ((decoded / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert batch.images is not None
    assert np.abs(shown - batch.images).mean() < 8
    assert np.abs(shown - batch.images[::-1]).mean() > 16  # another image is not so near


def test_latents_become_noise_of_unit_variance_towards_the_start(forward_config: BuildConfig) -> None:
    build(forward_config, progress=False)
    info = read_info(forward_config.folder)
    batches = list(open_bench(forward_config.folder).batches(info.stored))
    latents = {k: np.concatenate([batch.latents[k] for batch in batches]) for k in info.stored}
    x0 = latents[STEPS]
    for position in info.positions:
        assert position.sigma is not None
        latent = latents[position.position]
        expected = math.hypot((1 - position.sigma) * x0.std(), position.sigma)
        assert latent.std() == pytest.approx(expected, rel=0.05)
        assert abs(latent.mean() - (1 - position.sigma) * x0.mean()) < 0.05
    # one noise for all positions: the same is left wherever the image is taken away
    noises = [(latents[k] - (1 - s) * x0) / s for k, s in ((p.position, p.sigma) for p in info.positions[:-1]) if s]
    for noise in noises[1:]:
        np.testing.assert_allclose(noise, noises[0], atol=5e-3)  # the last sigma, 0.003, divides what float32 rounds


def test_no_denoiser_is_needed(forward_config: BuildConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for part in ("vae", "scheduler"):
        shutil.copytree(WORLD_PIPELINE / part, bare / part)
    (bare / "transformer").mkdir()
    shutil.copy(WORLD_PIPELINE / "transformer" / "config.json", bare / "transformer")
    shutil.copy(WORLD_PIPELINE / "model_index.json", bare)
    build(replace(forward_config, pipeline=str(bare)), progress=False)
    build(replace(forward_config, out=tmp_path / "whole"), progress=False)
    for ours, theirs in zip(
        open_bench(forward_config.folder).batches([0, STEPS]),
        open_bench(tmp_path / "whole").batches([0, STEPS]),
        strict=True,
    ):
        for k in (0, STEPS):
            assert (ours.latents[k] == theirs.latents[k]).all()


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(
    forward_config: BuildConfig, scenes: Path, tmp_path: Path
) -> None:
    code = DIES + (
        "import sys\nfrom pathlib import Path\nfrom nbench.builders.build import build\n"
        "from nbench.builders.config import BuildConfig\nfrom nbench.jobs.records import Records\n"
        "dies(Records, 'add', 1)\n"
        "build(BuildConfig('ncc', process='forward', images=Path(sys.argv[1]), out=Path(sys.argv[2]), steps=4,"
        " latent_dtype='float32', rows_per_shard=4, batch_size=3), progress=False)\n"
    )
    assert run_program(code, scenes, forward_config.folder).returncode == -9
    assert build(forward_config, progress=False).built == COUNT - 4
    build(replace(forward_config, out=tmp_path / "at-once"), progress=False)
    for path in sorted((tmp_path / "at-once").rglob("*.*")):
        assert path.read_bytes() == (forward_config.folder / path.relative_to(tmp_path / "at-once")).read_bytes()
    assert not verify(forward_config.folder).defects


def test_a_changed_image_is_another_build(forward_config: BuildConfig, scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    build(replace(forward_config, images=folder), progress=False)
    build(forward_config, progress=False)  # the same images elsewhere are the same build
    first = next(folder.glob("*.png"))
    Image.new("RGB", (32, 32)).save(first)
    with pytest.raises(NbenchError, match=r"holds another build \(other images\)"):
        build(replace(forward_config, images=folder), progress=False)


def test_images_that_cannot_be_read_are_failed_rows(forward_config: BuildConfig, scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    first, second, third, *_ = sorted(folder.glob("*.png"))
    first.write_bytes(first.read_bytes()[:90])
    second.unlink()
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    third.write_bytes(gif.getvalue())
    config = replace(forward_config, images=folder)
    assert build(config, progress=False).failed == 3
    bench = open_bench(config.folder)
    errors = [
        row["error"]
        for index in range(2)
        for rows in bench.shard_rows(index, ["error"], 64)
        for row in rows.to_pylist()
    ]
    assert errors[0].startswith("image cannot be read")
    assert errors[1:3] == ["no image", "image is none of PNG, JPEG, WEBP"]
    assert errors[3:] == [None] * 3
    assert not verify(config.folder).defects


def test_human_ratings_stay_with_their_images(forward_config: BuildConfig) -> None:
    config = replace(forward_config, kind="genai-bench")
    build(config, progress=False)
    add_references(AddConfig(config.folder, ("clip",)))
    bench = open_bench(config.folder)
    assert bench.info.spec["process"] == "forward"
    assert bench.info.spec["images"]["size"] == [32, 32]
    scores, ratings = open_inputs("clip", None, bench)
    assert ratings.scores[np.isfinite(ratings.scores)].tolist() == [1 + number % 5 for number in range(COUNT - 1)]
    assert human_agreement(scores, ratings).n_rated == COUNT - 1


def test_it_cannot_be_made_again_without_its_images(forward_config: BuildConfig) -> None:
    build(forward_config, progress=False)
    with pytest.raises(NbenchError, match="made of images that are not stored"):
        regenerate(open_bench(forward_config.folder), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": None}, "name them with --images"),
        ({"process": "reverse"}, "need --process forward"),
        ({"prompts": "cc12m"}, "--prompts cannot be used"),
        ({"options": PipelineOptions(guidance=3.0)}, "--guidance needs a denoiser"),
        ({"signals": ("latent", "cfg_gap", "image")}, "--signals needs a denoiser"),
    ],
)
def test_settings_that_make_no_sense_are_refused(scenes: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        BuildConfig(**{"kind": "ncc", "process": "forward", "images": scenes, **settings})


def test_sizes_that_the_autoencoder_cannot_divide_are_refused(forward_config: BuildConfig) -> None:
    with pytest.raises(NbenchError, match="height 33 is not a multiple of 8, which shapes needs: give --height 32"):
        build(replace(forward_config, options=PipelineOptions(height=33)), progress=False)


def test_candidates_beyond_the_images_are_refused(forward_config: BuildConfig) -> None:
    with pytest.raises(NbenchError, match="has 1 images per caption: lower --candidates 2"):
        build(replace(forward_config, candidates=2), progress=False)


def test_encoding_takes_the_mean(sd15_folder: Path) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(sd15_folder / "vae")
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    with torch.inference_mode():
        moments = vae.encode(torch.from_numpy(image / 127.5 - 1).float().permute(0, 3, 1, 2)).latent_dist
    torch.testing.assert_close(encode(vae, image), moments.mean * vae.config.scaling_factor)
