"""Signals of real runs: what the denoiser's own hooks say is what is recorded, built, verified and made again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import pytest
import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.regenerate import regenerate
from nbench.builders.spec import build_spec
from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.options import PipelineOptions
from nbench.pipelines.predictions import projection
from nbench.pipelines.recorder import Recorder
from nbench.shapes.tokenizer import build_tokenizer
from nbench.shards.fingerprint import fingerprint
from nbench.shards.reader import Bench, open_bench
from nbench.shards.verify import verify

from ..builders.conftest import Hooked
from ..builders.test_config import CONFIG, ENTRY, GOLDEN, PROMPTS
from ..tiny_parts import TOKENS, t5

STEPS = 4
TEXTS = ["two red circles on gray background", "one blue square on white background"]
LAYERS = {"world": "transformer_blocks.3", "sd15": "mid_block.attentions.0"}
WIDTHS = {"world": 8, "sd15": 4}
SIGNALS = ("latent", "x0", "cfg_gap", "image")
X0_FLOAT16 = 2**-10
"""Of the largest latent, over the share of x0 in the next one: two roundings of float16, 2^-11 each."""


@pytest.fixture
def sd15(sd15_folder: Path) -> Any:
    return load_pipeline(resolve_pipeline(str(sd15_folder)), "float32", "cpu")


@pytest.fixture(params=["world", "sd15"])
def piped(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, request.getfixturevalue(request.param)


def run(pipe: Any, signals: Any, positions: Any = range(STEPS + 1), guidance: float = 2.0) -> Recorder:
    generators = [torch.Generator().manual_seed(i) for i in range(len(TEXTS))]
    with Recorder(pipe, positions, signals) as recorder:
        pipe(
            prompt=TEXTS,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=generators,
            output_type="latent",
            **(resolve_pipeline("shapes").call_kwargs if hasattr(pipe, "transformer") else {}),
        )
    return recorder


@contextmanager
def outputs(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a module returns at each call."""
    seen = list[torch.Tensor]()
    handle = module.register_forward_hook(
        lambda _, given, output: seen.append((output if isinstance(output, torch.Tensor) else output[0]).clone())
    )
    yield seen
    handle.remove()


def test_the_gap_is_the_norm_of_the_difference_of_both_predictions(piped: tuple[str, Any]) -> None:
    pipe = piped[1]
    with outputs(getattr(pipe, "unet", None) or pipe.transformer) as seen:
        recorder = run(pipe, ("latent", "cfg_gap"), positions=[2])
    expected = [np.linalg.norm((both[2:, :4] - both[:2, :4]).double().numpy().reshape(2, -1), axis=1) for both in seen]
    assert recorder.cfg_gap is not None
    assert recorder.cfg_gap.shape == (2, STEPS)  # all steps, whichever positions are kept
    np.testing.assert_allclose(recorder.cfg_gap.numpy(), np.stack(expected, 1), rtol=1e-5)
    assert recorder.cfg_gap.min() > 0


def test_a_predicted_variance_is_no_part_of_the_gap() -> None:
    """DeepFloyd IF hands its scheduler the variance beside the noise, in further channels."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        encoder_hid_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    pipe = diffusers.IFPipeline(
        build_tokenizer(TOKENS), t5(16), unet, scheduler, None, None, None, requires_safety_checker=False
    )
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    with Recorder(pipe, [0], SIGNALS) as recorder, outputs(unet) as seen:
        pipe(TEXTS, num_inference_steps=STEPS, generator=generators, output_type="np")
    noises = [output[:, :3].double() for output in seen]
    expected = torch.stack([(each[2:] - each[:2]).flatten(1).norm(dim=1) for each in noises], 1)
    assert recorder.cfg_gap is not None
    torch.testing.assert_close(recorder.cfg_gap.double(), expected, rtol=1e-5, atol=0)
    assert recorder.x0[0].shape == (2, 3, 8, 8)


def test_perturbed_attention_makes_no_gap(sd15: Any) -> None:
    """Its second prediction is made with the prompt, too."""
    pipe = diffusers.StableDiffusionPAGPipeline(
        **sd15.components, requires_safety_checker=False, pag_applied_layers=["mid"]
    )
    with pytest.raises(NbenchError, match="perturbed attention guidance"), Recorder(pipe, [0], SIGNALS):
        pipe(TEXTS, num_inference_steps=STEPS, guidance_scale=1.0, pag_scale=3.0, output_type="latent")


def test_activations_are_means_of_the_layers_output_for_the_prompt(piped: tuple[str, Any]) -> None:
    name, pipe = piped
    denoiser, layer = getattr(pipe, "unet", None) or pipe.transformer, LAYERS[name]
    with outputs(denoiser.get_submodule(layer)) as seen:
        recorder = run(pipe, ("latent", f"activations:{layer}"), positions=[1, STEPS])
    assert list(recorder.activations[layer]) == [1]
    places = 1 if seen[1].ndim == 3 else (2, 3)
    torch.testing.assert_close(recorder.activations[layer][1], seen[1][2:].mean(places))  # without the prompt is first
    narrow = run(pipe, ("latent", f"activations:{layer}:3"), positions=[1])
    wide = recorder.activations[layer][1]
    torch.testing.assert_close(narrow.activations[layer][1], wide @ projection(wide.shape[1], 3))


def test_the_half_with_the_prompt_is_found_whatever_its_order() -> None:
    from nbench.pipelines.predictions import _conditional

    rng = torch.Generator().manual_seed(0)
    without, prompt = torch.randn(2, 2, 4, 8, 8, generator=rng)
    for factor, guidance in itertools.product((1.0, -1.0, 0.7), (1.5, 7.5)):
        guided = factor * (without + guidance * (prompt - without))
        assert _conditional([without, prompt], guided) == 1
        assert _conditional([prompt, without], guided) == 0


def test_x0_of_a_run_is_what_the_guided_prediction_tells(world: Any) -> None:
    with outputs(world.transformer) as seen:
        recorder = run(world, ("latent", "x0"), guidance=2.0)
    for k, both in enumerate(seen):
        velocity = both[:2] + 2.0 * (both[2:] - both[:2])  # without the prompt first
        expected_x0 = recorder.latents[k] - (recorder.positions[k].sigma or 0.0) * velocity
        torch.testing.assert_close(recorder.x0[k], expected_x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(recorder.x0[STEPS - 1], recorder.latents[STEPS], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_had_is_refused(sd15: Any) -> None:
    with pytest.raises(NbenchError, match="one prediction a step and image, where two make a guidance gap"):
        run(sd15, ("latent", "cfg_gap"), guidance=1.0)
    with pytest.raises(NbenchError, match=r"no layer 'mid_block.attention.0' in .*: near it .*mid_block.attentions.0"):
        run(sd15, ("activations:mid_block.attention.0",))
    with pytest.raises(NbenchError, match="has 16 channels: give a DIM of at most 16"):
        run(sd15, (f"activations:{LAYERS['sd15']}:17",))
    with pytest.raises(NbenchError, match="does not give one output a denoiser call and image"):
        run(sd15, ("activations:mid_block.resnets.0.nonlinearity",))
    for module in sd15.unet.modules():
        assert not module._forward_hooks
    assert run(sd15, (f"activations:{LAYERS['sd15']}",), guidance=1.0).activations  # one prediction has activations


def test_the_last_block_of_sd3_has_no_text_any_more(world: Any) -> None:
    name = "transformer_blocks.5"
    with outputs(world.transformer.norm_out) as seen:
        recorder = run(world, ("latent", f"activations:{name}", "activations:norm_out"), positions=[1])
    assert recorder.activations[name][1].shape == (len(TEXTS), seen[0].shape[2])
    torch.testing.assert_close(recorder.activations["norm_out"][1], seen[1][2:].mean(1))


@pytest.mark.parametrize("output", [(), (None,), torch.ones(2)])
def test_layers_that_give_no_row_an_image_are_refused(sd15: Any, output: Any) -> None:
    layer = sd15.unet.mid_block.attentions[0]
    layer.register_forward_hook(lambda module, given, _: output)
    with pytest.raises(NbenchError, match="does not give one output a denoiser call and image"):
        run(sd15, (f"activations:{LAYERS['sd15']}",))


def test_a_layer_that_is_called_twice_is_refused_without_guidance_too(sd15: Any) -> None:
    with pytest.raises(NbenchError, match="does not give one output a denoiser call and image"):
        run(sd15, ("activations:mid_block.resnets.0.nonlinearity",), guidance=1.0)


def config_of(name: str, out: Path, folder: Path, **changed: Any) -> BuildConfig:
    return BuildConfig(
        "genai-bench",
        pipeline="shapes" if name == "world" else str(folder),
        out=out,
        limit=2,
        candidates=2,
        steps=STEPS,
        options=PipelineOptions(guidance=2.0),
        rows_per_shard=3,
        references=(),
        signals=("image", "latent", "x0", "cfg_gap", f"activations:{LAYERS[name]}:{WIDTHS[name]}"),
        **changed,
    )


@pytest.mark.parametrize("name", ["world", "sd15"])
@pytest.mark.parametrize(("form", "dtype"), [("parquet", "float16"), ("parquet", "int8"), ("webdataset", "float32")])
def test_builds_keep_verify_and_make_signals_again(
    tmp_path: Path,
    sd15_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    form: Literal["parquet", "webdataset"],
    dtype: Any,
) -> None:
    monkeypatch.chdir(sd15_folder.parent)  # a data set names a folder by its last part alone
    config = config_of(name, tmp_path / "bench", sd15_folder, format=form, latent_dtype=dtype, positions="1,3")
    assert build(config, progress=False).failed == 0
    assert build(config, progress=False).built == 0  # the same command finds nothing to do
    bench = open_bench(tmp_path / "bench")
    assert bench.info.signals == ("latent", "x0", "cfg_gap", f"activations:{LAYERS[name]}:{WIDTHS[name]}", "image")
    batch = next(bench.batches([1, STEPS], signals=("x0", "cfg_gap", f"activations:{LAYERS[name]}")))
    assert (sorted(batch.x0), batch.latents) == ([1, STEPS], {})
    assert batch.activations[LAYERS[name]][1].shape == (3, WIDTHS[name])
    assert batch.cfg_gap is not None
    assert batch.cfg_gap.shape == (3, STEPS)
    assert verify(bench.path).defects == ()
    assert regenerate(bench, 2).defects == ()


def test_signals_that_are_not_those_of_the_pipeline_are_found_out(
    tmp_path: Path, sd15_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sd15_folder.parent)
    build(config_of("sd15", tmp_path / "bench", sd15_folder), progress=False)
    bench = open_bench(tmp_path / "bench")
    original = Bench.shard_rows

    def doubled(self: Bench, *arguments: Any) -> Iterator[Any]:
        for rows in original(self, *arguments):
            column = rows.schema.get_field_index("cfg_gap")
            field, lists = rows.schema.field(column), rows["cfg_gap"]
            values = type(lists).from_arrays(lists.flatten().to_numpy() * 2, STEPS)
            yield rows.set_column(column, field, values.cast(field.type))

    monkeypatch.setattr(Bench, "shard_rows", doubled)
    assert {defect.what.partition(" differs")[0] for defect in regenerate(bench, 2).defects} == {
        "made again, its cfg_gap"
    }


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", X0_FLOAT16), ("float32", 1e-4)])
def test_neighbouring_latents_tell_the_same_x0(tmp_path: Path, dtype: Any, tolerance: float) -> None:
    """The world's scheduler of first order: next = s'/s latent + (a' - a s'/s) x0, s = sigma, a = 1 - s."""
    config = BuildConfig(
        "genai-bench", out=tmp_path / "bench", limit=2, candidates=2, steps=20, references=(), signals=SIGNALS,
        latent_dtype=dtype,
    )  # fmt: skip
    build(config, progress=False)
    bench = open_bench(tmp_path / "bench")
    batch = next(bench.batches(bench.info.stored, signals=("latent", "x0")))
    sigmas = [place.sigma or 0.0 for place in bench.info.positions]
    for k, (now, then) in enumerate(itertools.pairwise(sigmas)):
        kept = then / now
        weight = (1 - then) - (1 - now) * kept
        latent, following = batch.latents[k].astype(np.float64), batch.latents[k + 1].astype(np.float64)
        expected_x0 = (following - kept * latent) / weight
        unit = max(np.abs(latent).max(), np.abs(following).max()) / weight
        assert np.abs(expected_x0 - batch.x0[k].astype(np.float64)).max() <= tolerance * unit


def test_a_gap_that_there_is_not_stops_the_build_before_it_begins(tmp_path: Path, sd15_folder: Path) -> None:
    config = replace(config_of("sd15", tmp_path / "bench", sd15_folder), options=PipelineOptions(guidance=1.0))
    with pytest.raises(NbenchError, match="raise --guidance"):
        build(config, progress=False)
    assert not list((tmp_path / "bench").rglob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("most", [5, 0])
def test_the_first_look_halves_what_does_not_fit(tmp_path: Path, sd15_folder: Path, capsys: Any, most: int) -> None:
    def check(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if len(args[0] if args else kwargs["sample"]) // 2 > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    config = replace(config_of("sd15", tmp_path / "bench", sd15_folder), limit=12, candidates=1)
    build(replace(config, out=tmp_path / "calm"), progress=False)
    hooked = Hooked(config, lambda pipe: pipe.unet.register_forward_pre_hook(check, with_kwargs=True))
    if not most:
        with pytest.raises(NbenchError, match="out of memory with one image"):
            build(config, progress=False, process=hooked)
        return
    assert build(config, process=hooked).failed == 0
    assert "out of memory with 12 images at a time: going on with 6" in capsys.readouterr().err
    mine, calm = (open_bench(tmp_path / name).info for name in ("bench", "calm"))
    assert mine.preview is not None
    assert calm.preview is not None
    np.testing.assert_allclose(mine.preview.weight, calm.preview.weight, atol=1e-3)


def test_signals_count_for_the_fingerprint_and_the_default_does_not() -> None:
    assert "signals" not in build_spec(CONFIG, ENTRY, PROMPTS)
    for signals in (SIGNALS, ("latent", "activations:a", "image"), ("latent", "activations:a:3", "image")):
        assert fingerprint(build_spec(replace(CONFIG, signals=signals), ENTRY, PROMPTS)) != GOLDEN
    assert fingerprint(build_spec(replace(CONFIG, signals=("image", "latent")), ENTRY, PROMPTS)) == GOLDEN
    with pytest.raises(NbenchError, match="lack latent"):
        replace(CONFIG, signals=("image", "x0"))
