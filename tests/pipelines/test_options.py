"""Options of pipelines: what is refused before loading, what enters the fingerprint, what only changes speed."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPConfig
from typer.testing import CliRunner

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.prompts.choose import Prompt
from nbench.builders.spec import build_spec
from nbench.cli import app
from nbench.errors import NbenchError
from nbench.pipelines.aliases import ALIASES, WORLD_PIPELINES
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import generate
from nbench.pipelines.options import PipelineOptions, as_called, parse_arguments
from nbench.pipelines.schedulers import scheduler_class
from nbench.shards.dataset import read_info
from nbench.shards.fingerprint import fingerprint

from ..shards.hub.hub_repos import Repo, StoredFile
from ..shards.hub.hub_server import HubServer
from ..tiny_pipelines import Family, save_flux, save_qwen_image, save_sana, save_sd3
from .conftest import only


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights must not be touched."""

    def opened(*arguments: Any, **options: Any) -> Any:
        pytest.fail("the pipeline was loaded")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", opened)


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PipelineOptions(max_sequence_length=8), "StableDiffusionPipeline takes no max_sequence_length"),
        (PipelineOptions(arguments={"clip_skp": 1}), "takes no clip_skp: did you mean clip_skip?"),
        (PipelineOptions(arguments={"true_cfg_scale": 2}), "takes no true_cfg_scale"),
        (PipelineOptions(arguments={"num_inference_steps": 3}), "num_inference_steps cannot be set: --steps"),
        (PipelineOptions(scheduler="Eulr"), r"no scheduler 'Eulr': did you mean Euler"),
        (PipelineOptions(scheduler="Heun"), "HeunDiscreteScheduler does not call the denoiser once per step"),
        (PipelineOptions(scheduler="KDPM2AncestralDiscreteScheduler"), "KDPM2AncestralDiscreteScheduler does not"),
        (PipelineOptions(scheduler="DPMSolverSDE"), "DPMSolverSDEScheduler cannot be used .*torchsde"),
        (PipelineOptions(scheduler="FlowMatchEuler"), "is for flow matching, for which this denoiser is not trained"),
        (PipelineOptions(scheduler="Euler", eta=1.0), "EulerDiscreteScheduler takes no eta"),
        (PipelineOptions(quantize="int3"), "no quantization 'int3': there are bitsandbytes_4bit"),
        (PipelineOptions(quantize="quanto"), "needs the package optimum-quanto: pip install optimum-quanto"),
        (PipelineOptions(revision="main"), "is a folder, which has no revisions"),
        (PipelineOptions(height=17), "height 17 is not a multiple of 2, which .* needs: give --height 16"),
    ],
)
def test_what_a_pipeline_does_not_take_is_refused_first(
    options: PipelineOptions, message: str, sd15_folder: Path, tmp_path: Path
) -> None:
    config = BuildConfig("ncc", pipeline=str(sd15_folder), out=tmp_path / "ncc", limit=1, options=options)
    with pytest.raises(NbenchError, match=message):
        build(config, progress=False)
    assert not (tmp_path / "ncc").exists()


@pytest.mark.usefixtures("unopened")
@only("sd3")
def test_flow_matching_is_not_swapped_for_another_process(family_folder: Path) -> None:
    with pytest.raises(NbenchError, match="EulerDiscreteScheduler does not support flow matching"):
        resolve_pipeline(str(family_folder), PipelineOptions(scheduler="Euler"))
    with pytest.raises(NbenchError, match="StableDiffusion3Pipeline takes no eta"):
        resolve_pipeline(str(family_folder), PipelineOptions(eta=1.0))


@pytest.mark.parametrize("name", ["Euler", "eulerdiscrete", "EulerDiscreteScheduler"])
def test_names_of_schedulers(name: str) -> None:
    assert scheduler_class(name) is diffusers.EulerDiscreteScheduler


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Amused", "cannot take the place of DDIMScheduler .*mask_token_id"),
        ("VQDiffusion", "cannot take the place of DDIMScheduler"),
        ("UnCLIP", "cannot take the place of DDIMScheduler .*squaredcos_cap_v2"),
        ("ScoreSdeVe", "has no method step"),
        ("CosineDPMSolverMultistep", "cannot be used .*torchsde"),
    ],
)
def test_schedulers_for_something_else_are_refused_before_weights_are_read(
    sd15_folder: Path, name: str, reason: str
) -> None:
    with pytest.raises(NbenchError, match=reason):
        resolve_pipeline(str(sd15_folder), PipelineOptions(scheduler=name))


def test_a_swapped_scheduler_keeps_the_shift(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "sd3")
    pipe = load_pipeline(resolve_pipeline(str(folder), PipelineOptions(scheduler="DPMSolver")), "float32", "cpu")
    pipe.scheduler.set_timesteps(4)
    stock = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    stock.set_timesteps(sigmas=torch.linspace(1, 1 / 4, 4).tolist())
    # the two space their sigmas differently before the shift, which maps s to 3 s / (1 + 2 s); both begin at 1
    assert pipe.scheduler.config.flow_shift == stock.config.shift == 3.0
    assert float(pipe.scheduler.sigmas[0]) == pytest.approx(float(stock.sigmas[0]), abs=2e-3)
    sana = resolve_pipeline(str(save_sana(tmp_path / "sana")), PipelineOptions(scheduler="FlowMatchEuler"))
    assert load_pipeline(sana, "float32", "cpu").scheduler.config.shift == 3.0


@pytest.mark.parametrize(
    ("pairs", "arguments"),
    [
        ((), {}),
        (("clip_skip=1", "a=true", "b=null", "c=[1, 2]", "d=plain text", 'e="1"'), None),
        (("x=a=b",), {"x": "a=b"}),
    ],
)
def test_arguments_are_json_or_text(pairs: tuple[str, ...], arguments: dict[str, Any] | None) -> None:
    expected = {"clip_skip": 1, "a": True, "b": None, "c": [1, 2], "d": "plain text", "e": "1"}
    assert parse_arguments(pairs) == (expected if arguments is None else arguments)


@pytest.mark.parametrize("pairs", [("novalue",), ("=1",), ("a-b=1",), ("a=1", "a=2")])
def test_arguments_that_are_none(pairs: tuple[str, ...]) -> None:
    with pytest.raises(NbenchError, match="--pipeline-arg"):
        parse_arguments(pairs)


def test_senseless_sizes() -> None:
    with pytest.raises(NbenchError, match="--max-sequence-length 0 is out of range"):
        PipelineOptions(max_sequence_length=0)


def test_where_guidance_goes(tmp_path: Path) -> None:
    qwen = load_pipeline(resolve_pipeline(str(save_qwen_image(tmp_path / "qwen"))), "float32", "cpu")
    flux = load_pipeline(resolve_pipeline(str(save_flux(tmp_path / "flux"))), "float32", "cpu")
    arguments = {"guidance_scale": 4.0, "nonsense": 1}
    assert as_called(qwen, arguments, 2) == {"true_cfg_scale": 4.0, "negative_prompt": [" ", " "]}
    assert as_called(qwen, {**arguments, "negative_prompt": "x"}, 1) == {
        "true_cfg_scale": 4.0,
        "negative_prompt": ["x"],
    }
    assert as_called(flux, arguments, 2) == {"guidance_scale": 4.0}
    true = {**arguments, "true_cfg_scale": 2.0, "negative_prompt": "x"}
    assert as_called(flux, true, 2) == {"guidance_scale": 4.0, "true_cfg_scale": 2.0, "negative_prompt": ["x", "x"]}
    flux.transformer.register_to_config(guidance_embeds=False)
    assert as_called(flux, arguments, 1) == {"true_cfg_scale": 4.0, "negative_prompt": [" "]}


PROMPTS = [Prompt("0", "a cat")]


def _fingerprint(folder: Path, options: PipelineOptions, **change: Any) -> str:
    config = BuildConfig("ncc", pipeline=str(folder), options=options, **change)
    return fingerprint(build_spec(config, resolve_pipeline(str(folder), config.options), PROMPTS))


def test_what_changes_the_output_enters_the_fingerprint(sd15_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.pipelines.options.check_quantizer", lambda backend: None)
    changes: list[dict[str, Any]] = [
        {"scheduler": "Euler"},
        {"eta": 1.0},
        {"height": 32},
        {"width": 32},
        {"negative_prompt": "blurry"},
        {"arguments": {"clip_skip": 1}},
        {"quantize": "torchao"},
        {"attention": "native"},
        {"guidance": 3.0},
    ]
    fingerprints = [_fingerprint(sd15_folder, PipelineOptions(**change)) for change in changes]
    fingerprints += [
        _fingerprint(sd15_folder, PipelineOptions()),
        _fingerprint(sd15_folder, PipelineOptions(), dtype="float16"),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    fast = PipelineOptions(compile=True, offload="group", vae_slicing=True, vae_tiling=True)
    assert _fingerprint(sd15_folder, fast) == _fingerprint(sd15_folder, PipelineOptions())


def test_the_default_spec_is_as_it_was() -> None:
    """Not a key more: the fingerprint of every build that exists depends on it."""
    config = BuildConfig("genai-bench")
    spec = build_spec(config, resolve_pipeline("shapes", config.options), PROMPTS)
    assert list(spec) == [
        "kind", "pipeline", "scheduler", "steps", "guidance", "call_kwargs", "dtype", "seed", "prompts", "candidates",
        "positions", "rows_per_shard", "format", "latent_dtype",
    ]  # fmt: skip
    assert (spec["steps"], spec["guidance"], spec["call_kwargs"]) == (50, 7.0, {"max_sequence_length": 1})
    assert spec["scheduler"]["class"] == "FlowMatchEulerDiscreteScheduler"


def test_steps_are_those_of_the_alias() -> None:
    assert BuildConfig("ncc", pipeline="sdxl").n_steps == BuildConfig("ncc", pipeline="some/thing").n_steps == 50
    assert BuildConfig("ncc", pipeline="sd35").stored == tuple(range(29))
    assert BuildConfig("ncc", pipeline="sana", steps=7).n_steps == 7
    with pytest.raises(NbenchError, match="not in a run of 20 steps"):
        BuildConfig("ncc", pipeline="sana", positions="20:30")


def test_every_alias_adds_up() -> None:
    for name in WORLD_PIPELINES:
        assert ALIASES[name].guidance == resolve_pipeline(name).guidance
    for entry in ALIASES.values():
        assert entry.latent_shape is not None
        assert entry.image_size is not None
        factors = {pixels / places for pixels, places in zip(entry.image_size, entry.latent_shape[1:], strict=True)}
        assert factors == {{"shapes": 2, "shapes-unet": 2, "sana": 32}.get(entry.name, 8)}
    kinds = {
        "flux": diffusers.FluxPipeline,
        "qwen-image": diffusers.QwenImagePipeline,
        "z-image": diffusers.ZImagePipeline,
    }
    for name, kind in kinds.items():
        taken = inspect.signature(kind.__call__).parameters
        assert set(ALIASES[name].call_kwargs) <= set(taken)
        assert (ALIASES[name].call_kwargs["height"], ALIASES[name].call_kwargs["width"]) == ALIASES[name].image_size
    assert ALIASES["sdxl"].trajectory_bytes() == 51 * 4 * 128 * 128 * 2


@pytest.mark.usefixtures("unopened")
@only("sd3", "flux", "qwen-image", "z-image")
def test_sizes_that_a_denoiser_of_patches_cannot_divide(family: Family, family_folder: Path) -> None:
    with pytest.raises(NbenchError, match=r"width 18 is not a multiple of 4, which .* needs: give --width 16"):
        resolve_pipeline(str(family_folder), PipelineOptions(width=18))


def test_a_safety_checker_is_left_out(sd15_folder: Path, tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    pipe = load_pipeline(resolve_pipeline(str(sd15_folder)), "float32", "cpu")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=8)
    parts = {**pipe.components, "safety_checker": StableDiffusionSafetyChecker(config)}
    parts["feature_extractor"] = CLIPImageProcessor(crop_size=16, size={"shortest_edge": 16})
    folder = tmp_path / "checked"
    diffusers.StableDiffusionPipeline(**parts).save_pretrained(folder)
    assert "safety_checker" in json.loads((folder / "model_index.json").read_text())
    assert load_pipeline(resolve_pipeline(str(folder)), "float32", "cpu").safety_checker is None


def _edited(folder: Path, copy: Path, edit: Callable[[dict[str, Any]], None], file: str) -> Path:
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text())
    edit(content)
    (copy / file).write_text(json.dumps(content))
    return copy


def test_folders_that_cannot_be_opened_say_why(sd15_folder: Path, tmp_path: Path) -> None:
    def opened(folder: Path) -> Any:
        return load_pipeline(resolve_pipeline(str(folder)), "float32", "cpu")

    index = "model_index.json"
    own = _edited(
        sd15_folder, tmp_path / "own", lambda content: content.update(_class_name=["pipeline", "Mine"]), index
    )
    with pytest.raises(NbenchError, match=r"of a class that diffusers .* lacks .*code that comes with .* is not run"):
        opened(own)
    missing = _edited(
        sd15_folder,
        tmp_path / "sde",
        lambda content: content.update(scheduler=["diffusers", "DPMSolverSDEScheduler"]),
        index,
    )
    with pytest.raises(NbenchError, match="pipeline sde needs the package torchsde: pip install torchsde"):
        opened(missing)
    narrow = _edited(
        sd15_folder, tmp_path / "unet", lambda content: content.update(cross_attention_dim=8), "unet/config.json"
    )
    with pytest.raises(NbenchError, match="cannot open pipeline unet") as error:
        opened(narrow)
    assert "\n" not in str(error.value)
    with pytest.raises(NbenchError, match=r"does not run \(.*divisible by 8"):
        generate(opened(sd15_folder), ["a"], [1], [1], {"num_inference_steps": 1, "height": 17, "width": 16})


_RESOLVE = """
import json, sys
from nbench.pipelines.options import PipelineOptions
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.errors import NbenchError

for revision in json.loads(sys.argv[1]):
    try:
        entry = resolve_pipeline("lab/tiny", PipelineOptions(revision=revision))
        print(json.dumps([entry.name, entry.content, load_pipeline(entry, "float32", "cpu").unet.config.act_fn]))
    except NbenchError as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_a_revision_of_the_hub(hub: HubServer, sd15_folder: Path, tmp_path: Path) -> None:
    """In a process of its own, since the Hub's client takes its settings when it is imported."""
    new = _edited(sd15_folder, tmp_path / "new", lambda content: content.update(act_fn="gelu"), "unet/config.json")
    repo = hub.repos["model", "lab/tiny"] = Repo()
    for folder in (sd15_folder, new):
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {str(path.relative_to(folder)): StoredFile(path.read_bytes(), large=False) for path in paths}
        repo.commit("main", files, folder.name)
    old, latest = repo.commits
    repo.tags["v1"] = old
    revisions = json.dumps([None, "v1", old, "v9"])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", _RESOLVE, revisions]
    environment = kept | hub.environment(tmp_path / "home")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    resolved = [json.loads(line) for line in done.stdout.splitlines()]
    assert resolved[:3] == [["lab/tiny", latest, "gelu"], ["lab/tiny", old, "silu"], ["lab/tiny", old, "silu"]]
    assert "no pipeline 'lab/tiny' at v9: no such folder, and it cannot be downloaded from the Hub" in resolved[3]


def test_the_list_of_names() -> None:
    result = CliRunner().invoke(app, ["pipelines", "--json"])
    listed = {each["name"]: each for each in json.loads(result.stdout)["pipelines"]}
    assert list(listed) == list(ALIASES)
    assert (listed["sdxl"]["latent"], listed["sdxl"]["bytes"]) == ([4, 128, 128], 51 * 4 * 128 * 128 * 2)
    assert listed["shapes"]["source"] == listed["shapes-unet"]["source"] == "embedded"
    table = CliRunner().invoke(app, ["pipelines", "--wide"]).stdout
    assert "16x128x128" in table
    assert "black-forest-labs/FLUX.1-dev" in table


def test_the_command_line_hands_on_the_options(sd15_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ncc"
    words = f"build ncc --pipeline {sd15_folder} --limit 2 --steps 2 --height 16 --width 24 --scheduler DDIM --eta 0.5"
    more = "--negative-prompt blurry --pipeline-arg guidance_rescale=0.5 --vae-slicing"
    result = CliRunner().invoke(app, [*f"{words} {more} --out".split(), str(out)])
    assert result.exit_code == 0, result.output
    info = read_info(out)
    assert info.spec["call_kwargs"] == {
        "height": 16,
        "width": 24,
        "negative_prompt": "blurry",
        "eta": 0.5,
        "guidance_rescale": 0.5,
    }
    assert (info.spec["scheduler"]["class"], info.latent_shape) == ("DDIMScheduler", (4, 8, 12))


def test_candidates_are_made_again_with_the_options(tmp_path: Path) -> None:
    words = "build ncc --limit 3 --steps 4 --scheduler UniPC --guidance 3 --latent-dtype float32 --out"
    more = ["--negative-prompt", "two blue squares", "--attention", "_native_math"]
    assert CliRunner().invoke(app, [*words.split(), str(tmp_path / "ncc"), *more]).exit_code == 0
    spec = read_info(tmp_path / "ncc").spec
    assert (spec["scheduler"]["class"], spec["attention"]) == ("UniPCMultistepScheduler", "_native_math")
    again = CliRunner().invoke(app, ["verify", str(tmp_path / "ncc"), "--regenerate", "2"])
    assert (again.exit_code, "no defects" in again.output) == (0, True), again.output


@only("sdxl")
def test_arguments_from_the_command_line_as_the_pipeline_wants_them(family: Family, family_folder: Path) -> None:
    """One prompt for the second encoder of all rows, and sizes, which JSON has as lists."""
    pipe = load_pipeline(resolve_pipeline(str(family_folder)), "float32", "cpu")
    prompts, seeds, steps = ["one red circle", "two blue squares"], [1, 2], {"num_inference_steps": 2}
    found = generate(pipe, prompts, seeds, [2], {**steps, "prompt_2": "star", "original_size": [32, 16]})
    stock = pipe(
        prompts,
        prompt_2=["star"] * 2,
        original_size=(32, 16),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
        **steps,
    ).images
    assert torch.equal(found.latents[2], stock)
