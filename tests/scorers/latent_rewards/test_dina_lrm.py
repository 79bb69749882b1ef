"""DiNa-LRM against the stock transformer with peft's LoRA, seen by hooks, and its head written out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from nbench.errors import NbenchError
from nbench.scorers.latent_rewards.dina_lrm import DiNaLRMScorer
from nbench.shards.schema import LatentSpace, PositionInfo

from .published import TEXT, VISUAL, as_safetensors, save_dina_lrm, save_sd3

PROMPTS = ["two red circles", "one blue square on gray background", "three green crosses"]
TIMESTEP = 612.5
AT = PositionInfo(3, TIMESTEP, 0.6125, 1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return save_dina_lrm(tmp_path / "dina", base)


@pytest.fixture
def space(base: Path) -> LatentSpace:
    return LatentSpace((16, 8, 8), None, str(base))


def expected(base: Path, folder: Path, latents: torch.Tensor) -> torch.Tensor:
    """Rewards [B], without code of nbench."""
    import diffusers
    from peft import PeftModel

    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(base)
    states: dict[int, Any] = {}
    for number, block in enumerate(pipe.transformer.transformer_blocks, 1):
        block.register_forward_hook(lambda block, inputs, output, number=number: states.update({number: output}))
    pipe.transformer.time_text_embed.register_forward_hook(lambda part, inputs, output: states.update({0: output}))
    adapted = PeftModel.from_pretrained(pipe.transformer, folder / "checkpoint" / "backbone_lora")
    head = torch.load(folder / "checkpoint" / "rm_head.pt", weights_only=True)
    with torch.no_grad():
        texts, _, pooled, _ = pipe.encode_prompt(
            PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=256
        )
        times = torch.full((len(latents),), TIMESTEP)
        adapted(latents, encoder_hidden_states=texts, pooled_projections=pooled, timestep=times)

        def linear(name: str, values: torch.Tensor) -> torch.Tensor:
            return functional.linear(values, head[f"{name}.weight"], head[f"{name}.bias"])

        def norm(name: str, values: torch.Tensor) -> torch.Tensor:
            mean = values.pow(2).mean(-1, keepdim=True)
            return values / (mean + torch.finfo(torch.float32).eps).sqrt() * head[f"{name}.weight"]

        def adapter(name: str, values: torch.Tensor) -> torch.Tensor:
            style = linear(f"{name}.cond_mlp.2", functional.silu(linear(f"{name}.cond_mlp.0", states[0])))
            scale, shift = style[:, None, : style.shape[1] // 2], style[:, None, style.shape[1] // 2 :]
            return linear(f"{name}.proj", values + values * scale + shift + head[f"{name}.layer_embed"])

        def attention(name: str, asked: torch.Tensor, kind: str, values: torch.Tensor, gated: bool) -> torch.Tensor:
            query, key = linear(f"{name}.to_q", asked), linear(f"{name}.to_k_{kind}", values)
            value = linear(f"{name}.to_v_{kind}", values)
            if gated:
                gate = linear(f"{name}.gate_{kind}.2", functional.silu(linear(f"{name}.gate_{kind}.0", values)))
                value = value / (1 + (-gate).exp())
            answers = []
            for first in range(0, 16, 8):  # two heads
                part = slice(first, first + 8)
                weights = (query[..., part] @ key[..., part].mT / 8**0.5).softmax(-1)
                answers.append(weights @ value[..., part])
            return torch.cat(answers, dim=-1)

        image = torch.cat([adapter(f"layer_adapters_visual.{i}", states[k][1]) for i, k in enumerate(VISUAL)], dim=-1)
        text = torch.cat([adapter(f"layer_adapters_text.{i}", states[k][0]) for i, k in enumerate(TEXT)], dim=-1)
        image, text = linear("agg_visual", image), linear("agg_text", text)
        queries = head["query_tokens"].repeat(len(latents), 1, 1)
        asked = norm("attn1.norm_q", queries)
        heard = attention("attn1", asked, "vis", norm("attn1.norm_v", image), True)
        heard = heard + attention("attn1", asked, "text", norm("attn1.norm_t", text), True)
        queries = queries + linear("attn1.to_out.0", heard)
        heard = attention("attn2", norm("attn2.norm_q", queries), "vis", norm("attn2.norm_v", image), False)
        queries = queries + linear("attn2.to_out.0", heard)
        queries = queries + linear("ff.2", functional.gelu(linear("ff.0", norm("norm_ff", queries))))
        return linear("head", queries).mean(1)[:, 0]


def test_equals_the_stock_transformer_with_its_lora(base: Path, folder: Path, space: LatentSpace) -> None:
    latents = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = expected(base, folder, latents)
    scorer = DiNaLRMScorer(str(folder), space)
    scores = scorer.score(latents, PROMPTS, AT)
    assert wanted.unique().numel() == 3
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(scores, scorer.score(latents, PROMPTS, PositionInfo(4, 100.0, 0.1, 1.0)), atol=1e-3)
    assert not torch.allclose(scores, scorer.score(latents, PROMPTS[::-1], AT), atol=1e-4)
    as_safetensors(folder / "checkpoint" / "rm_head.pt")
    torch.testing.assert_close(DiNaLRMScorer(str(folder), space).score(latents, PROMPTS, AT), scores)


def test_other_latents_and_other_checkpoints_are_refused(folder: Path, space: LatentSpace) -> None:
    with pytest.raises(NbenchError, match="those of FLUX differ"):
        DiNaLRMScorer(str(folder), LatentSpace((16, 8, 8), None, "flux"))
    with pytest.raises(NbenchError, match="16 channels, and these have 4"):
        DiNaLRMScorer(str(folder), LatentSpace((4, 8, 8), None, "sdxl"))
    config = json.loads((folder / "config.json").read_text())
    adapter = folder / "checkpoint" / "backbone_lora" / "adapter_config.json"
    plain = adapter.read_text()
    adapter.write_text(json.dumps(json.loads(plain) | {"use_rslora": True}))
    with pytest.raises(NbenchError, match=r"not a plain LoRA \(use_rslora\)"):
        DiNaLRMScorer(str(folder), space).load()
    adapter.write_text(plain)
    config["model"]["num_transformer_layers"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(NbenchError, match="has 5 blocks, and 9 are needed"):
        DiNaLRMScorer(str(folder), space).load()
    config["model"]["use_logistic"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(NbenchError, match="unpublished kind"):
        DiNaLRMScorer(str(folder), space)
