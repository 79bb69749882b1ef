"""Planned costs against real builds: shapes, bytes on disk, and rows that the denoiser computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from nbench.builders.build import build
from nbench.builders.candidates import Plan
from nbench.builders.config import BuildConfig
from nbench.builders.planning.costs import estimate_costs
from nbench.builders.planning.counts import KNOWN_IMAGES, KNOWN_PROMPTS
from nbench.builders.process.forward import Forward, LoadedAutoencoder
from nbench.errors import NbenchError
from nbench.pipelines.denoisers import denoisers
from nbench.pipelines.find import resolve_pipeline
from nbench.pipelines.options import PipelineOptions
from nbench.shards.dataset import read_info
from nbench.shards.row_columns import array_columns

from ...tiny_pipelines import Family
from ..conftest import Hooked, save_scenes

SMALL = BuildConfig("ncc", limit=40, steps=6, batch_size=40, signals=("latent", "image", "x0", "cfg_gap"))


def on_disk(folder: Path) -> int:
    """Bytes of all shards."""
    return sum(record.bytes for record in read_info(folder).shards if record)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("latent_dtype", ["float16", "int8"])
def test_planned_bytes_are_those_of_a_build(tmp_path: Path, format: Any, latent_dtype: Any) -> None:
    config = replace(SMALL, out=tmp_path / "data", format=format, latent_dtype=latent_dtype)
    build(config, progress=False)
    info, planned = read_info(config.folder), estimate_costs(config)
    assert (planned.trajectories, planned.latent_shape, planned.image_size) == (info.rows, info.latent_shape, (32, 32))
    assert (planned.shards, planned.rows_per_shard) == (len(info.shards), info.rows_per_shard)
    assert planned.stored_bytes == pytest.approx(on_disk(Path(config.folder)), rel=0.1)


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("latent_dtype", ["float16", "int8"])
def test_a_plan_of_the_forward_process_is_what_its_build_makes(tmp_path: Path, format: Any, latent_dtype: Any) -> None:
    (tmp_path / "scenes").mkdir()
    images, encoded = save_scenes(tmp_path / "scenes", 40), list[int]()
    config = BuildConfig(
        "ncc", process="forward", images=images, out=tmp_path / "data", steps=6, batch_size=16, rows_per_shard=16,
        format=format, latent_dtype=latent_dtype,
    )  # fmt: skip

    class Counted(Forward):
        def load(self, plan: Plan) -> LoadedAutoencoder:
            loaded = super().load(plan)
            loaded.vae.encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
            return loaded

    build(config, progress=False, process=Counted(config))
    info, planned = read_info(config.folder), estimate_costs(config)
    assert (planned.trajectories, planned.latent_shape, planned.image_size) == (40, info.latent_shape, (32, 32))
    assert (planned.shards, planned.denoiser_rows, planned.encoder_rows) == (len(info.shards), 0, sum(encoded))
    assert {column.name for column in planned.columns} >= {*array_columns(info), "image"}
    assert planned.stored_bytes == pytest.approx(on_disk(Path(config.folder)), rel=0.1)


def test_images_on_the_hub_are_not_fetched_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rated = BuildConfig("genai-bench", "sdxl", process="forward", images="genai-bench")
    planned = estimate_costs(rated)
    assert (planned.prompts, planned.candidates) == (KNOWN_PROMPTS["genai-bench"], KNOWN_IMAGES["genai-bench"])
    assert (planned.trajectories, planned.encoder_rows, planned.rows_a_step) == (9600, 9601, 0)
    two = estimate_costs(replace(rated, image_columns=("SDXL_Base", "SDXL_Turbo"), sample=50))
    assert two.trajectories == 100
    other = replace(rated, images="lab/photos")
    with pytest.raises(NbenchError, match=r"the number of images in lab/photos is not known .* --limit"):
        estimate_costs(other)
    planned = estimate_costs(replace(other, limit=300))
    assert (planned.trajectories, planned.prompts_known_from) == (300, "as asked in lab/photos, not counted now")


def test_planned_rows_are_those_the_denoiser_computes(family: Family, family_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    config = BuildConfig(
        "ncc", str(family_folder), tmp_path / "out", prompts=str(prompts), candidates=2, steps=3, batch_size=3
    )
    counted = []

    def count(module: Any, args: Any, kwargs: Any) -> None:
        counted.append(len(args[0] if args else next(iter(kwargs.values()))))

    hooked = Hooked(config, lambda pipe: denoisers(pipe)[0].register_forward_pre_hook(count, with_kwargs=True))
    with torch.no_grad():
        build(config, progress=False, process=hooked)
    planned, info = estimate_costs(config), read_info(config.folder)
    assert planned.denoiser_rows == sum(counted)
    assert (planned.latent_shape, planned.image_size, planned.trajectories) == (
        info.latent_shape,
        tuple(info.image_size),
        info.rows,
    )


def test_published_prompts_and_named_pipelines_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    planned = estimate_costs(BuildConfig("ncc", "sdxl", prompts="cc12m", positions="20:30", steps=50))
    assert planned.prompts == planned.trajectories == KNOWN_PROMPTS["cc12m"] == 10_965_172
    assert planned.denoiser_rows == (10_965_172 + 1) * 50 * 2
    raw = {column.name: column.raw_bytes for column in planned.columns}
    assert raw["latent_20"] == 10_965_172 * 4 * 128 * 128 * 2
    assert [name for name in raw if name.startswith("latent")] == [f"latent_{k}" for k in range(20, 31)]
    limited = estimate_costs(BuildConfig("ncc", "sdxl", prompts="cc12m", limit=500, sample=20))
    assert limited.prompts == 20


def test_sizes_and_guidance_asked_for_count() -> None:
    smaller = PipelineOptions(height=512, width=768)
    planned = estimate_costs(
        BuildConfig("genai-bench", "sdxl", prompts="genai-bench", options=replace(smaller, guidance=1.0))
    )
    assert (planned.latent_shape, planned.image_size, planned.rows_a_step) == ((4, 64, 96), (512, 768), 1)
    flux = estimate_costs(BuildConfig("genai-bench", "flux", prompts="genai-bench"))
    assert (flux.latent_shape, flux.rows_a_step) == ((16, 128, 128), 1)


def test_z_image_guides_at_any_guidance_above_zero() -> None:
    kind = type("Asked", (diffusers.ZImagePipeline,), {"__init__": lambda self: None})
    for guidance in (0.0, 0.5, 1.0, 4.0):
        pipeline = kind()
        pipeline._guidance_scale = guidance
        planned = estimate_costs(
            BuildConfig("genai-bench", "z-image", prompts="genai-bench", options=PipelineOptions(guidance=guidance))
        )
        assert planned.rows_a_step == 1 + pipeline.do_classifier_free_guidance


@pytest.mark.parametrize(("name", "multiple"), [("sdxl", 8), ("flux", 16), ("z-image", 16), ("sana", 32)])
def test_a_size_that_cannot_be_made_is_refused_before_anything_is_fetched(name: str, multiple: int) -> None:
    def planned(height: int) -> Any:
        return estimate_costs(BuildConfig("ncc", name, prompts="cc12m", options=PipelineOptions(height=height)))

    assert planned(30 * multiple).image_size[0] == 30 * multiple
    odd = 30 * multiple + multiple // 2
    for refuse in (planned, lambda height: resolve_pipeline(name, PipelineOptions(height=height))):
        with pytest.raises(NbenchError, match=f"height {odd} is not a multiple of {multiple}, which {name} needs"):
            refuse(odd)


def test_a_layer_of_unknown_width_is_named() -> None:
    planned = estimate_costs(replace(SMALL, signals=("latent", "image", "activations:transformer_blocks.1")))
    assert "not counted" in planned.notes[0]
    assert "transformer_blocks.1" in planned.notes[0]


@pytest.mark.parametrize("name", ["sdxk", "no/folder/here"])
def test_a_pipeline_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(NbenchError, match="no pipeline"):
        estimate_costs(replace(SMALL, pipeline=name))
