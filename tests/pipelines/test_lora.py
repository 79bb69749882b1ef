"""LoRA adapters: latents equal those of stock diffusers; what does not fit is refused before anything is generated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from nbench.builders.config import BuildConfig
from nbench.builders.spec import build_spec
from nbench.errors import NbenchError
from nbench.pipelines.aliases import PipelineEntry
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import generate
from nbench.pipelines.options import PipelineOptions
from nbench.shards.fingerprint import fingerprint

from ..tiny_pipelines import Family
from .conftest import only

PROMPTS, SEEDS = ["one red circle", "two blue squares"], [3, 4]


def adapter(pipe: Any, name: str, targets: list[str], seed: int) -> dict[str, torch.Tensor]:
    """Random tensors of a LoRA of the part `name` of a pipeline, as peft names them."""
    torch.manual_seed(seed)
    model = getattr(pipe, name)
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets), f"made_{seed}")
    tensors = get_peft_model_state_dict(model, adapter_name=f"made_{seed}")
    model.delete_adapters(f"made_{seed}") if hasattr(model, "delete_adapters") else model.delete_adapter(f"made_{seed}")
    return {key: torch.randn_like(tensor) for key, tensor in tensors.items()}


def save_lora(folder: Path, path: Path, seed: int = 1, text: bool = False) -> Path:
    """A random LoRA for the pipeline in `folder`: of its denoiser's attention, and with `text` of its text encoder."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    layers = {f"{part}_lora_layers": adapter(pipe, part, ["to_q", "to_k"], seed)}
    if text:
        layers["text_encoder_lora_layers"] = adapter(pipe, "text_encoder", ["q_proj", "v_proj"], seed + 1)
    type(pipe).save_lora_weights(path, **layers)
    return path


def latents(entry: PipelineEntry) -> torch.Tensor:
    pipe = load_pipeline(entry, "float32", "cpu")
    return generate(pipe, PROMPTS, SEEDS, [2], {"num_inference_steps": 2, **entry.call_kwargs}).latents[2]


@pytest.mark.slow
@only("sd15", "sdxl", "sd3", "flux")
def test_latents_are_those_of_stock_diffusers(family: Family, family_folder: Path, tmp_path: Path) -> None:
    first = save_lora(family_folder, tmp_path / "first", 1, text=True)
    second = save_lora(family_folder, tmp_path / "second", 5) / "pytorch_lora_weights.safetensors"
    entry = resolve_pipeline(str(family_folder), PipelineOptions(lora=(f"{first}:0.7", f"{second}:-1.5")))
    stock = diffusers.DiffusionPipeline.from_pretrained(family_folder)
    plain = resolve_pipeline(str(family_folder))
    stock.load_lora_weights(str(first), adapter_name="a")
    stock.load_lora_weights(str(second), adapter_name="b")
    stock.set_adapters(["a", "b"], [0.7, -1.5])
    expected = generate(stock, PROMPTS, SEEDS, [2], {"num_inference_steps": 2, **family.batched(2)}).latents[2]
    assert torch.equal(latents(entry), expected)
    assert not torch.allclose(latents(plain), expected, atol=1e-3)
    only_first = replace(entry, loras=entry.loras[:1])
    assert not torch.allclose(latents(only_first), expected, atol=1e-3)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, sd15_folder: Path) -> Path:
    return save_lora(sd15_folder, tmp_path_factory.mktemp("loras") / "ink")


def spec_of(folder: Path, *loras: str) -> dict[str, Any]:
    config = BuildConfig("genai-bench", pipeline=str(folder), options=PipelineOptions(lora=loras))
    return build_spec(config, resolve_pipeline(str(folder), config.options), [])


def test_the_fingerprint_has_content_and_weight_but_no_path(sd15_folder: Path, lora: Path, tmp_path: Path) -> None:
    spec = spec_of(sd15_folder, f"{lora}:0.5")
    assert [(one["name"], one["weight"]) for one in spec["loras"]] == [("ink", 0.5)]
    assert "loras" not in spec_of(sd15_folder)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((lora / "pytorch_lora_weights.safetensors").read_bytes())
    assert fingerprint(spec_of(sd15_folder, f"{moved}:0.5")) == fingerprint(spec)
    tensors = load_file(moved)
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, moved)
    others = [(), (str(lora),), (f"{moved}:0.5",), (f"{lora}:0.5", f"{moved}:0.5"), (f"{moved}:0.5", f"{lora}:0.5")]
    assert len({fingerprint(spec), *(fingerprint(spec_of(sd15_folder, *loras)) for loras in others)}) == 6


def test_what_is_no_lora_is_refused_when_it_is_looked_for(
    sd15_folder: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tensors = load_file(lora / "pytorch_lora_weights.safetensors")
    save_file({"unet.weight": torch.ones(1)}, tmp_path / "none.safetensors")
    save_file({**tensors, "unet.a.dora_scale": torch.ones(1)}, tmp_path / "dora.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    (tmp_path / "pickle.bin").write_bytes(b"")
    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "pytorch_lora_weights.bin").write_bytes(b"")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    for name, reason in {
        "none.safetensors": "holds no LoRA: none of its 1 tensors",
        "dora.safetensors": "is a DoRA, which diffusers does not apply",
        "cut.safetensors": "cannot be read",
        "pickle.bin": "is not a safetensors file, and others are not opened",
        "bins": "has no safetensors file, and others are not opened",
        "peft": "was saved by PEFT",
        ".": "has several safetensors files, name one",
        "nowhere": "it is no folder, no file and no Hub id",
    }.items():
        with pytest.raises(NbenchError, match=reason) as error:
            resolve_pipeline(str(sd15_folder), PipelineOptions(lora=(f"{tmp_path / name}:0.5",)))
        assert "\n" not in str(error.value)
    with pytest.raises(NbenchError, match="cannot be downloaded from the Hub"):
        resolve_pipeline(str(sd15_folder), PipelineOptions(lora=("nobody/nothing:0.5",)))
    for weight in ("much", "nan", "inf", ""):
        with pytest.raises(NbenchError, match="is not a number"):
            PipelineOptions(lora=(f"{lora}:{weight}",))


@only("sdxl", "sd3")
def test_a_lora_of_another_family_is_refused(
    family: Family, family_folder: Path, lora: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """diffusers itself warns, and goes on without its tensors."""
    with pytest.raises(NbenchError, match=r"LoRA ink does not fit this StableDiffusion(XL|3)Pipeline"):
        load_pipeline(resolve_pipeline(str(family_folder), PipelineOptions(lora=(str(lora),))), "float32", "cpu")
    whole = load_file(save_lora(family_folder, tmp_path, 1) / "pytorch_lora_weights.safetensors")
    name = next(key for key in whole if "lora_A" in key)
    changed = {name.replace("to_", "to_no_such_"): whole[name].clone(), **whole}
    save_file(changed, tmp_path / "partly.safetensors")
    options = PipelineOptions(lora=(str(tmp_path / "partly.safetensors"),))
    with pytest.raises(NbenchError, match=rf"of its {len(changed)} tensors fit a layer"):
        load_pipeline(resolve_pipeline(str(family_folder), options), "float32", "cpu")
    assert not capfd.readouterr().err


@only("pixart")
def test_a_pipeline_that_takes_none(family: Family, family_folder: Path, lora: Path) -> None:
    with pytest.raises(NbenchError, match="PixArtSigmaPipeline takes no LoRA: leave --lora out"):
        resolve_pipeline(str(family_folder), PipelineOptions(lora=(str(lora),)))


def test_an_alpha_of_kohya_is_applied(sd15_folder: Path, tmp_path: Path) -> None:
    """In that layout a layer is scaled by alpha over rank: twice the alpha is twice the weight."""
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    found = []
    for alpha, weight in ((2.0, 1.0), (1.0, 2.0)):
        torch.manual_seed(0)
        tensors = {f"{layer}.lora_down.weight": torch.randn(2, 16), f"{layer}.lora_up.weight": torch.randn(16, 2)}
        path = tmp_path / f"{alpha}.safetensors"
        save_file({**tensors, f"{layer}.alpha": torch.tensor(alpha)}, path)
        found.append(latents(resolve_pipeline(str(sd15_folder), PipelineOptions(lora=(f"{path}:{weight}",)))))
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], latents(resolve_pipeline(str(sd15_folder))), atol=1e-3)


@only("flux")
def test_tensors_that_diffusers_leaves_out_are_an_error(family: Family, family_folder: Path, tmp_path: Path) -> None:
    """A LoRA for T5 in the layout of kohya: diffusers logs it, and applies the rest."""
    first = "lora_unet_single_blocks_0_linear2"
    text = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    tensors = {f"{first}.lora_down.weight": torch.randn(2, 16 + 64), f"{first}.lora_up.weight": torch.randn(16, 2)}
    save_file(tensors, path := tmp_path / "kohya.safetensors")
    options = PipelineOptions(lora=(str(path),))
    load_pipeline(resolve_pipeline(str(family_folder), options), "float32", "cpu")
    save_file({**tensors, f"{text}.lora_down.weight": torch.randn(2, 32)}, path)
    with pytest.raises(NbenchError, match="T5-xxl keys found in the state dict, which are currently unsupported"):
        load_pipeline(resolve_pipeline(str(family_folder), options), "float32", "cpu")
