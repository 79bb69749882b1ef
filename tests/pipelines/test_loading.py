"""What makes pipelines faster or smaller leaves what they make, and what is recorded of them, as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import generate
from nbench.pipelines.options import PipelineOptions

from ..tiny_pipelines import Family
from .conftest import only


@only("sdxl")
def test_speed_and_memory_options_leave_the_latents(family: Family, family_folder: Path) -> None:
    entry = resolve_pipeline(str(family_folder))
    arguments = {"num_inference_steps": 2, **entry.call_kwargs}

    def run(entry: Any, options: PipelineOptions | None = None) -> torch.Tensor:
        pipe = load_pipeline(entry, "float32", "cpu", options)
        return generate(pipe, ["one red circle"] * 2, [1, 2], [2], arguments).latents[2]

    plain = run(entry)
    assert torch.equal(run(entry, PipelineOptions(vae_slicing=True, vae_tiling=True)), plain)
    assert torch.allclose(run(replace(entry, attention="_native_math")), plain, atol=1e-4)


@pytest.mark.slow
def test_compiling_repeated_blocks(sd15_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    compiled: list[str] = []
    original = torch.nn.Module.compile

    def compile_eagerly(self: torch.nn.Module, *arguments: Any, **options: Any) -> None:
        compiled.append(type(self).__name__)
        original(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    entry = resolve_pipeline(str(sd15_folder))
    plain, fast = (load_pipeline(entry, "float32", "cpu", PipelineOptions(compile=on)) for on in (False, True))
    assert compiled
    assert set(compiled) == {"BasicTransformerBlock"}
    runs = [generate(pipe, ["one red circle"], [1], [2], {"num_inference_steps": 2}) for pipe in (plain, fast)]
    assert torch.allclose(runs[0].latents[2], runs[1].latents[2], atol=1e-4)


@pytest.mark.slow
@torch._dynamo.config.patch(skip_nnmodule_hook_guards=True)  # as it is until something is compiled
@only("sd15", "sd3")
def test_signals_of_a_compiled_pipeline(family: Family, family_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or by its blocks; layers inside of what was compiled before anybody watched them, too."""
    torch.compiler.reset()
    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: original(self, backend="eager"))
    entry = resolve_pipeline(str(family_folder))
    plain, fast = (load_pipeline(entry, "float32", "cpu", PipelineOptions(compile=on)) for on in (False, True))
    inner = {"sd15": "down_blocks.1.attentions.0.transformer_blocks.0.attn1", "sd3": "transformer_blocks.0.norm2"}
    layer = inner[family.name]
    for seed, signals in enumerate(
        [["latent"], ["cfg_gap", f"activations:{layer}"], ["latent"], [f"activations:{layer}"]]
    ):
        arguments = {"num_inference_steps": 2, "guidance_scale": 3.0}
        one, other = (generate(pipe, ["one red circle"], [seed], [1, 2], arguments, signals) for pipe in (plain, fast))
        assert torch.allclose(one.latents[2], other.latents[2], atol=1e-4)
        for name, places in one.activations.items():
            assert torch.allclose(places[1], other.activations[name][1], atol=1e-4)
        if one.cfg_gap is not None:
            assert other.cfg_gap is not None
            assert torch.allclose(one.cfg_gap, other.cfg_gap, rtol=1e-4)


def test_offloading_needs_a_gpu_and_attention_a_backend(sd15_folder: Path) -> None:
    entry = resolve_pipeline(str(sd15_folder))
    with pytest.raises(NbenchError, match="--offload model keeps weights off a GPU, and there is none here"):
        load_pipeline(entry, "float32", "cpu", PipelineOptions(offload="model"))
    for attention in ("nonsense", "sage"):
        with pytest.raises(NbenchError, match=f"attention {attention} is not to be had"):
            load_pipeline(replace(entry, attention=attention), "float32", "cpu")
