"""Single-file checkpoints make what the folder with the same weights makes; what is missing is named in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from nbench.errors import NbenchError
from nbench.pipelines.aliases import PipelineEntry
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import Trajectories, generate
from nbench.pipelines.options import PipelineOptions

from ..original_layout import save_original

CONFIGURATION = shutil.ignore_patterns("*.safetensors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, sd15_folder: Path) -> Path:
    """A file, and its configuration in a folder beside it, of the same name and without weights."""
    folder = tmp_path_factory.mktemp("single")
    shutil.copytree(sd15_folder, folder / "tiny", ignore=CONFIGURATION)
    return save_original(diffusers.DiffusionPipeline.from_pretrained(sd15_folder), folder / "tiny.safetensors")


def made(entry: PipelineEntry) -> Trajectories:
    pipe = load_pipeline(entry, "float32", "cpu")
    return generate(pipe, ["one red circle"] * 2, [1, 2], [0, 2], {"num_inference_steps": 2, **entry.call_kwargs})


def test_a_file_makes_what_its_folder_makes(checkpoint: Path, sd15_folder: Path, tmp_path: Path) -> None:
    folder, single = resolve_pipeline(str(sd15_folder)), resolve_pipeline(str(checkpoint))
    expected, found = made(folder), made(single)
    assert torch.equal(found.latents[2], expected.latents[2])
    assert (found.images == expected.images).all()
    assert single.content != folder.content
    moved = shutil.copy(checkpoint, tmp_path / "moved.safetensors")
    named = resolve_pipeline(str(moved), PipelineOptions(config=str(checkpoint.with_suffix(""))))
    assert named.content == single.content
    tensors = load_file(moved)
    save_file({**tensors, "first_stage_model.quant_conv.bias": torch.ones(8)}, moved)
    assert resolve_pipeline(str(moved), PipelineOptions(config=named.source)).content != single.content


def test_the_dtype_of_its_vae(checkpoint: Path) -> None:
    entry = resolve_pipeline(str(checkpoint), PipelineOptions(vae_dtype="float32"))
    pipe = load_pipeline(entry, "bfloat16", "cpu")
    assert (pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    exact = load_file(checkpoint)["first_stage_model.quant_conv.weight"]
    assert torch.equal(pipe.vae.quant_conv.weight.squeeze(), exact.squeeze())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.ckpt", "is a pickle, which can run code and is not opened"),
        ("a.pt", "is a pickle"),
        ("a.gguf", "is GGUF, the quantized denoiser alone"),
        ("a.zip", "is a file of another kind"),
        ("a.safetensors", "cannot be read"),
    ],
)
def test_files_that_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes(b"\x80\x04")
    with pytest.raises(NbenchError, match=reason):
        resolve_pipeline(f"models/{name}")  # as a Hub id would be written


def test_without_a_configuration_one_line_says_what_is_missing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    alone = shutil.copy(checkpoint, tmp_path / "alone.safetensors")
    with pytest.raises(
        NbenchError, match=r"stable-diffusion-v1-5 be fetched .* with its model_index.json by --pipeline-config"
    ):
        resolve_pipeline(str(alone))
    with pytest.raises(NbenchError, match="is no folder of a diffusers pipeline"):
        resolve_pipeline(str(alone), PipelineOptions(config=str(tmp_path)))


def test_what_does_not_go_with_a_file(checkpoint: Path, sd15_folder: Path) -> None:
    with pytest.raises(NbenchError, match="--pipeline-config is for single-file checkpoints"):
        resolve_pipeline(str(sd15_folder), PipelineOptions(config=str(sd15_folder)))
    entry = resolve_pipeline(str(checkpoint), PipelineOptions(variant="fp16"))
    with pytest.raises(NbenchError, match="--variant is for folders of weights"):
        load_pipeline(entry, "float32", "cpu")


def without(checkpoint: Path, file: Path, **parts: str) -> Path:
    """A copy of `checkpoint` without the tensors that begin with the values of `parts`, configured beside it."""
    shutil.copytree(checkpoint.with_suffix(""), file.with_suffix(""))
    kept = {key: value for key, value in load_file(checkpoint).items() if not key.startswith(tuple(parts.values()))}
    save_file(kept, file)
    return file


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("cond_stage_model.", "neither it nor the folder of its configuration has the text_encoder, CLIPTextModel"),
        ("cond_stage_model.transformer.text_model.encoder.layers.0.mlp", "it lacks 4 tensors of its text_encoder"),
        ("model.diffusion_model.out.2", "cannot open"),
        ("first_stage_model.", "cannot open"),
    ],
)
def test_missing_tensors_are_an_error(checkpoint: Path, tmp_path: Path, missing: str, reason: str) -> None:
    file = without(checkpoint, tmp_path / "part.safetensors", part=missing)
    with pytest.raises(NbenchError, match=reason) as error:
        load_pipeline(resolve_pipeline(str(file)), "float32", "cpu")
    assert "\n" not in str(error.value)
    assert "part.safetensors" in str(error.value)
    assert (
        missing != "cond_stage_model."
        or "neither it nor the folder of its configuration has the text_encoder" in str(error.value)
    )


def test_parts_that_a_file_lacks_come_from_its_configuration(
    checkpoint: Path, sd15_folder: Path, tmp_path: Path
) -> None:
    """As diffusers does it; checkpoints of large models leave the text encoders out."""
    file = without(checkpoint, tmp_path / "part.safetensors", text="cond_stage_model.")
    shutil.copytree(sd15_folder / "text_encoder", tmp_path / "part" / "text_encoder", dirs_exist_ok=True)
    found, expected = made(resolve_pipeline(str(file))), made(resolve_pipeline(str(sd15_folder)))
    assert torch.equal(found.latents[2], expected.latents[2])


def test_a_configuration_of_another_model(checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint.with_suffix(""), tmp_path / "other")
    config: dict[str, Any] = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    entry = replace(resolve_pipeline(str(checkpoint)), source=str(other))
    with pytest.raises(NbenchError, match=r"cannot open|lacks"):
        load_pipeline(entry, "float32", "cpu")


def test_a_file_that_is_marked_as_predicting_velocity(checkpoint: Path, tmp_path: Path) -> None:
    file = without(checkpoint, tmp_path / "v.safetensors", none="none")
    save_file({**load_file(file), "v_pred": torch.ones(()), "ztsnr": torch.ones(())}, file)
    with pytest.raises(NbenchError, match=r'predicts velocity .* write "prediction_type": "v_prediction" and "rescale'):
        load_pipeline(resolve_pipeline(str(file)), "float32", "cpu")
    path = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    pipe = load_pipeline(resolve_pipeline(str(file)), "float32", "cpu")
    assert pipe.scheduler.config.prediction_type == "v_prediction"
