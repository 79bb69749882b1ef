"""Attention statistics equal those of whole maps that a plain attention processor keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb

from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.recorder import Recorder

from ..tiny_pipelines import Family
from .test_signals import TEXTS

LAYERS = {
    "sd15": "mid_block.attentions.0.transformer_blocks.0.attn2",
    "sdxl": "mid_block.attentions.0.transformer_blocks.0.attn2",
    "pixart": "transformer_blocks.0.attn2",
    "sd3": "transformer_blocks.0.attn",
    "flux": "transformer_blocks.0.attn",
}
STEPS = 3


class Maps:
    """A processor that computes attention with whole maps, and keeps those of each call: [rows, heads, places, tokens].

    Separate cross-attention, or joint attention of image and text: SD3 puts the image first, FLUX the text, and FLUX
    rotates queries and keys.
    """

    def __init__(self, text_first: bool = False) -> None:
        self.text_first, self.maps = text_first, list[torch.Tensor]()

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
        **others: Any,
    ) -> Any:
        def heads(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        def normed(norm: Any, values: torch.Tensor) -> torch.Tensor:
            return values if norm is None else norm(values)

        joint = getattr(attn, "add_k_proj", None) is not None
        images, texts = hidden_states.shape[1], encoder_hidden_states.shape[1]
        q = normed(attn.norm_q, heads(attn.to_q(hidden_states)))
        source = hidden_states if joint else encoder_hidden_states
        k, v = normed(attn.norm_k, heads(attn.to_k(source))), heads(attn.to_v(source))
        if joint:
            text_q = normed(attn.norm_added_q, heads(attn.add_q_proj(encoder_hidden_states)))
            text_k = normed(attn.norm_added_k, heads(attn.add_k_proj(encoder_hidden_states)))
            pairs = (q, text_q), (k, text_k), (v, heads(attn.add_v_proj(encoder_hidden_states)))
            order = slice(None, None, -1) if self.text_first else slice(None)
            q, k, v = (torch.cat(list(pair)[order], 2) for pair in pairs)
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(values, image_rotary_emb, sequence_dim=2) for values in (q, k))
        weights = q @ k.mT / math.sqrt(q.shape[-1])
        if attention_mask is not None:
            weights = weights + attention_mask.view(len(q), -1, attention_mask.shape[-2], attention_mask.shape[-1])
        weights = weights.softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        if not joint:
            self.maps.append(weights)
            return attn.to_out[1](attn.to_out[0](mixed))
        image, text = (slice(texts, None), slice(texts)) if self.text_first else (slice(images), slice(images, None))
        self.maps.append(weights[:, :, image, text])
        added = mixed[:, text] if attn.to_add_out is None else attn.to_add_out(mixed[:, text])
        return attn.to_out[1](attn.to_out[0](mixed[:, image])), added


def statistics(maps: torch.Tensor) -> torch.Tensor:
    """Mass and spread, one token and row at a time."""
    rows = []
    for row in maps.double().mean(1):
        mass, spread = [], []
        for token in row.T:
            mass.append(float(token.mean()))
            shares = [float(share / token.sum()) for share in token] if token.sum() > 0 else []
            spread.append(-sum(share * math.log(share) for share in shares if share > 0) / math.log(len(token)))
        rows.append(mass + spread)
    return torch.tensor(rows)


def run(pipe: Any, arguments: dict[str, Any], signals: Any) -> Recorder:
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    with Recorder(pipe, range(STEPS + 1), signals) as recorder:
        pipe(prompt=TEXTS, num_inference_steps=STEPS, generator=generators, output_type="latent", **arguments)
    return recorder


def check(pipe: Any, layer: str, text_first: bool, arguments: dict[str, Any], prompt_rows: slice) -> None:
    module = (getattr(pipe, "unet", None) or pipe.transformer).get_submodule(layer)
    recorder = run(pipe, arguments, ("latent", f"attention:{layer}"))
    plain, stock = Maps(text_first), module.processor
    module.processor = plain
    try:
        control = run(pipe, arguments, ("latent",))
    finally:
        module.processor = stock
    torch.testing.assert_close(control.latents[STEPS], recorder.latents[STEPS], rtol=1e-3, atol=1e-3)
    assert len(plain.maps) == STEPS
    for k, maps in enumerate(plain.maps):
        expected = statistics(maps[prompt_rows])
        torch.testing.assert_close(recorder.activations[f"attention:{layer}"][k], expected, rtol=1e-3, atol=1e-5)
        count = maps.shape[-1]
        assert expected.shape == (2, 2 * count)
    assert "forward" not in vars(module)


def test_statistics_are_those_of_the_whole_maps(family: Family, family_folder: Path) -> None:
    if family.name not in LAYERS:
        pytest.skip("its processors differ")
    pipe = load_pipeline(resolve_pipeline(str(family_folder)), "float32", "cpu")
    rows = slice(None) if family.guidance == "embedded" else slice(2, 4)  # the unconditional half is first
    check(pipe, LAYERS[family.name], family.name == "flux", family.batched(2), rows)


def test_statistics_of_the_world(world: Any) -> None:
    arguments = {"guidance_scale": 2.0, **resolve_pipeline("shapes").call_kwargs}
    check(world, "transformer_blocks.3.attn", False, arguments, slice(2, 4))


def test_masses_of_cross_attention_add_up_to_one(sd15_folder: Path) -> None:
    pipe = load_pipeline(resolve_pipeline(str(sd15_folder)), "float32", "cpu")
    values = run(pipe, {}, (f"attention:{LAYERS['sd15']}",)).activations[f"attention:{LAYERS['sd15']}"][1]
    mass, spread = values.chunk(2, 1)
    torch.testing.assert_close(mass.sum(1), torch.ones(2))
    assert (spread > 0).all()
    assert (spread <= 1 + 1e-6).all()


def test_layers_without_the_prompt_are_refused(world: Any) -> None:
    for layer, reason in (
        ("transformer_blocks.3", r"does not attend to the prompt: those that do are .*transformer_blocks.3.attn"),
        ("transformer_blocks.3.attention", r"no layer .*: near it .*transformer_blocks.3.attn"),
    ):
        with pytest.raises(NbenchError, match=reason), Recorder(world, [0], (f"attention:{layer}",)):
            pass
    with pytest.raises(NbenchError, match="gives 30 numbers, not 3: name no DIM"):
        run(world, resolve_pipeline("shapes").call_kwargs, ("attention:transformer_blocks.3.attn:3",))


def test_an_attention_that_is_computed_elsewhere_is_refused(world: Any) -> None:
    module = world.transformer.transformer_blocks[3].attn
    stock, module.processor = module.processor, Maps()
    try:
        with pytest.raises(NbenchError, match="computes 0 attentions by scaled_dot_product_attention"):
            run(world, resolve_pipeline("shapes").call_kwargs, ("attention:transformer_blocks.3.attn",))
    finally:
        module.processor = stock
    assert "forward" not in vars(module)
