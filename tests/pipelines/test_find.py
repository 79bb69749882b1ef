"""Pipelines by name, folder or Hub id."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils.import_utils import BACKENDS_MAPPING, DummyObject
from safetensors.torch import load_file, save_file

from nbench.builders.config import BuildConfig
from nbench.builders.spec import build_spec
from nbench.errors import NbenchError
from nbench.pipelines.aliases import ALIASES
from nbench.pipelines.find import load_pipeline, resolve_pipeline, scheduler_spec
from nbench.pipelines.generate import generate
from nbench.pipelines.options import PipelineOptions

from ..tiny_pipelines import Family
from .conftest import only


def test_the_world(world: object) -> None:
    entry = resolve_pipeline("shapes")
    assert entry.name == "shapes"
    assert entry.preview is not None
    assert entry.guidance is not None
    assert type(world).__name__ == "StableDiffusion3Pipeline"


@pytest.mark.parametrize(
    ("name", "pipeline", "differs"),
    [
        ("sd15", "StableDiffusionPipeline", {}),
        ("sdxl", "StableDiffusionXLPipeline", {}),
        ("sd35", "StableDiffusion3Pipeline", {"guidance": 7.0}),
        ("flux", "FluxPipeline", {"steps": 28}),
        ("pixart", "PixArtSigmaPipeline", {}),
        ("sana", "SanaPipeline", {}),
        ("qwen-image", "QwenImagePipeline", {}),
        ("z-image", "ZImagePipeline", {"guidance": 5.0}),
    ],
)
def test_settings_are_those_of_the_pipeline_unless_its_card_says_otherwise(
    name: str, pipeline: str, differs: dict[str, float]
) -> None:
    taken = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    guidance = taken["true_cfg_scale" if name == "qwen-image" else "guidance_scale"].default
    entry = ALIASES[name]
    assert {"steps": entry.steps, "guidance": entry.guidance} | differs == {
        "steps": taken["num_inference_steps"].default,
        "guidance": guidance,
    }


def test_content_is_what_counts(sd15_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sd15_folder, tmp_path / "copy")
    content = resolve_pipeline(str(sd15_folder)).content
    (copy / "README.md").write_text("a card")
    assert resolve_pipeline(str(copy)).content == content
    weights = next(copy.glob("unet/*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert resolve_pipeline(str(copy)).content != content


def test_a_folder_says_its_own_defaults(sd15_folder: Path, tmp_path: Path) -> None:
    assert resolve_pipeline(str(sd15_folder)).guidance is None
    copy = shutil.copytree(sd15_folder, tmp_path / "copy")
    (copy / "nbench.json").write_text(json.dumps({"guidance": 3, "call_kwargs": {"clip_skip": 0}}))
    entry = resolve_pipeline(str(copy))
    assert (entry.guidance, entry.call_kwargs, entry.preview) == (3, {"clip_skip": 0}, None)
    assert scheduler_spec(entry)["class"] == "DDIMScheduler"
    (copy / "nbench.json").write_text('{"guidanec": 3}')
    with pytest.raises(NbenchError, match=r"nbench\.json is not understood \(guidanec"):
        resolve_pipeline(str(copy))


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"is not a diffusers pipeline: it has no model_index\.json"):
        resolve_pipeline(str(tmp_path))
    with pytest.raises(NbenchError, match="neither a name nor a folder here; give one of shapes, shapes-unet, sdxl"):
        resolve_pipeline(str(tmp_path / "none"))
    with pytest.raises(NbenchError, match="did you mean shapes"):
        resolve_pipeline("shape")


def test_the_hub_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        NbenchError, match="no pipeline 'nobody/nothing': no such folder, and it cannot be downloaded from the Hub"
    ):
        resolve_pipeline("nobody/nothing")


def test_a_folder_that_diffusers_cannot_open(sd15_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sd15_folder, tmp_path / "copy")
    shutil.rmtree(copy / "unet")
    with pytest.raises(
        NbenchError, match=r"pipeline copy lacks the folder unet, which its model_index.json names: add it$"
    ):
        load_pipeline(resolve_pipeline(str(copy)), "float32")


def stripped(folder: Path, **parts: Any) -> Path:
    """`folder` with other parts in its model_index.json; None takes one out of it."""
    index = json.loads((folder / "model_index.json").read_text())
    changed = {name: part for name, part in {**index, **parts}.items() if part is not None}
    (folder / "model_index.json").write_text(json.dumps(changed))
    return folder


@only("sd3")
def test_without_the_third_text_encoder(family: Family, family_folder: Path, tmp_path: Path) -> None:
    """Left null by `save_pretrained`, or left out of the file by hand; stock diffusers is told so by its caller."""
    stock = diffusers.StableDiffusion3Pipeline.from_pretrained(family_folder, text_encoder_3=None, tokenizer_3=None)
    called = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(1), "output_type": "latent"}
    latents = stock("one red circle", **called).images
    for number, part in enumerate(([None, None], None)):
        folder = shutil.copytree(family_folder, tmp_path / str(number))
        for name in ("text_encoder_3", "tokenizer_3"):
            shutil.rmtree(folder / name)
        entry = resolve_pipeline(str(stripped(folder, text_encoder_3=part, tokenizer_3=part)))
        pipe = load_pipeline(entry, "float32", "cpu")
        made = generate(pipe, ["one red circle"], [1], [2], {"num_inference_steps": 2})
        assert torch.allclose(made.latents[2], latents, atol=1e-5)
        assert entry.content != resolve_pipeline(str(family_folder)).content


@only("sd3")
def test_a_part_whose_folder_is_missing_is_named(family: Family, family_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(family_folder, tmp_path / "copy")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(
        NbenchError, match=r'lacks the folder text_encoder_3, .* write "text_encoder_3": \[null, null\]'
    ):
        load_pipeline(resolve_pipeline(str(folder)), "float32", "cpu")


def test_a_package_that_a_pipeline_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Needy(metaclass=DummyObject):
        _backends = ("torch", "sentencepiece", "note_seq")

    monkeypatch.setattr(diffusers, "Needy", Needy, raising=False)
    for package in ("sentencepiece", "note_seq"):
        monkeypatch.setitem(BACKENDS_MAPPING, package, (lambda: False, "{0} requires another package"))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Needy"}))
    for options in (PipelineOptions(), PipelineOptions(height=32)):
        with pytest.raises(
            NbenchError, match="Needy needs sentencepiece, note_seq, not installed here: pip install sent"
        ):
            resolve_pipeline(str(tmp_path), options)


@only("sd3")
@pytest.mark.parametrize("part", ["transformer", "text_encoder", "text_encoder_3", "vae"])
def test_parts_that_lack_tensors_are_refused(family: Family, family_folder: Path, tmp_path: Path, part: str) -> None:
    """transformers would draw them at random, and generate with them."""
    file = next((shutil.copytree(family_folder, tmp_path / "copy") / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = min(tensors)
    for changed in ({}, {name: torch.ones(3, 3)}):
        save_file({key: value for key, value in tensors.items() if key != name} | changed, file, {"format": "pt"})
        with pytest.raises(NbenchError, match=rf"cannot open pipeline copy \(its \w+ lacks 1 tensors.*{name}"):
            load_pipeline(resolve_pipeline(str(tmp_path / "copy")), "float32", "cpu")


@only("sd15")
def test_weight_files_of_a_variant(family: Family, family_folder: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(resolve_pipeline(str(family_folder)), "float32", "cpu")
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    with pytest.raises(NbenchError, match="cannot open pipeline half"):
        load_pipeline(resolve_pipeline(str(tmp_path / "half")), "float32", "cpu")
    entry = resolve_pipeline(str(tmp_path / "half"), PipelineOptions(variant="fp16"))
    same = load_pipeline(entry, "float32", "cpu").unet.state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in pipe.unet.state_dict().items())
    with pytest.raises(NbenchError, match=r"cannot open pipeline half .*variant=fp8"):
        load_pipeline(replace(entry, variant="fp8"), "float32", "cpu")
    config = BuildConfig("genai-bench", pipeline="half", options=PipelineOptions(variant="fp16"))
    assert build_spec(config, entry, [])["variant"] == "fp16"


def test_modular_folders_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/modular_model_index.json").write_text('{"_class_name": "ZImageModularPipeline"}')
    with pytest.raises(NbenchError, match=r"models is of Modular Diffusers, .* model_index\.json of ZImagePipeline$"):
        resolve_pipeline("models")
