"""Latent-CLIP's published layout against open_clip's forward pass written out."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.schema import LatentSpace, PositionInfo

from .published import save_latent_clip

PROMPTS = ["two red circles", "one blue square on gray background", "three green crosses"]
AT = PositionInfo(3, 601.0, 2.0, 0.5)
SDXL = LatentSpace((4, 8, 8), None, "sdxl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_latent_clip(tmp_path / "latent-clip")


def tower(tensors: dict[str, torch.Tensor], at: str, states: torch.Tensor, heads: int, causal: bool) -> torch.Tensor:
    """States [B, N, D] after the blocks of a transformer of open_clip, by torch's own attention."""
    width = states.shape[-1]
    mask = torch.full((states.shape[1],) * 2, float("-inf")).triu(1) if causal else None

    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(values, (width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    for number in range(2):
        block = f"{at}transformer.resblocks.{number}"
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        attention.load_state_dict({name: tensors[f"{block}.attn.{name}"] for name in names})
        seen = norm(f"{block}.ln_1", states)
        states = states + attention(seen, seen, seen, attn_mask=mask, need_weights=False)[0]
        up, down = (
            (tensors[f"{block}.mlp.{part}.weight"], tensors[f"{block}.mlp.{part}.bias"]) for part in ("c_fc", "c_proj")
        )
        states = states + functional.linear(
            functional.gelu(functional.linear(norm(f"{block}.ln_2", states), *up)), *down
        )
    return states


def test_equals_open_clip(folder: Path) -> None:
    from transformers import AutoTokenizer

    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    checkpoint = torch.load(folder / "checkpoints" / "epoch_34.pt", weights_only=False)
    tensors = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
    visual = "visual.latent_vit."
    with torch.no_grad():
        raw = latents * AT.input_scale / 0.13025
        patches = functional.conv2d(raw, tensors[f"{visual}conv1.weight"], stride=2).flatten(2).mT
        first = tensors[f"{visual}class_embedding"].expand(3, 1, -1)
        states = torch.cat([first, patches], dim=1) + tensors[f"{visual}positional_embedding"]
        states = functional.layer_norm(
            states, (128,), tensors[f"{visual}ln_pre.weight"], tensors[f"{visual}ln_pre.bias"]
        )
        states = tower(tensors, visual, states, 2, causal=False)[:, 0]
        states = functional.layer_norm(
            states, (128,), tensors[f"{visual}ln_post.weight"], tensors[f"{visual}ln_post.bias"]
        )
        images = functional.normalize(states @ tensors[f"{visual}proj"], dim=-1)
        tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding="max_length", return_tensors="pt").input_ids
        states = tensors["token_embedding.weight"][tokens] + tensors["positional_embedding"]
        states = tower(tensors, "", states, 2, causal=True)
        states = functional.layer_norm(states, (64,), tensors["ln_final.weight"], tensors["ln_final.bias"])
        ends = states[torch.arange(3), tokens.argmax(-1)]
        texts = functional.normalize(ends @ tensors["text_projection"], dim=-1)
    scorer = get_scorer(f"latentclip:{folder}", SDXL)
    torch.testing.assert_close(scorer.embed_inputs(latents, AT), images, rtol=0, atol=2e-6)  # type: ignore[attr-defined]
    torch.testing.assert_close(scorer.embed_text(PROMPTS), texts, rtol=0, atol=2e-6)  # type: ignore[attr-defined]


def test_other_latents_and_models_are_refused(folder: Path) -> None:
    with pytest.raises(NbenchError, match=r"latents of 8x8, and these are 16x16: build with --height 64"):
        get_scorer(f"latentclip:{folder}", LatentSpace((4, 16, 16), None, "sdxl"))
    with pytest.raises(NbenchError, match=r"SDXL, and those of SD 1\.5 differ"):
        get_scorer(f"latentclip:{folder}", LatentSpace((4, 8, 8), None, "sd15"))
    config = folder / "Latent-ViT-B-8-512.json"
    settings = json.loads(config.read_text())
    settings["vision_cfg"]["latent_n_decoding_layers"] = 2
    config.write_text(json.dumps(settings))
    with pytest.raises(NbenchError, match="VAE's decoder"):
        get_scorer(f"latentclip:{folder}", SDXL)
