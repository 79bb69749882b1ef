"""Pipelines by name, folder or Hub id."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import pytest

from nbench.errors import NbenchError
from nbench.pipelines.aliases import ALIASES
from nbench.pipelines.find import load_pipeline, resolve_pipeline, scheduler_spec


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
    with pytest.raises(NbenchError, match="neither a name nor a folder here; give one of shapes, sdxl"):
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
    with pytest.raises(NbenchError, match="diffusers cannot open pipeline copy"):
        load_pipeline(resolve_pipeline(str(copy)), "float32")
