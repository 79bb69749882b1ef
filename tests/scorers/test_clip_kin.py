"""CLIP's kin, tiny and random, against their own forward pass on what their own processor makes of an image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from nbench.errors import NbenchError
from nbench.scorers.clip import CLIPScorer

from .tiny_models import save_blip_itm, save_clip, save_siglip

PROMPTS = ["two red circles on gray background", "one blue square"]


def cosines(scorer: CLIPScorer, inputs: torch.Tensor) -> torch.Tensor:
    return scorer.embed_inputs(inputs) @ scorer.embed_text(PROMPTS).T


def test_siglip_pads_prompts_to_the_length_it_was_trained_on(tmp_path: Path) -> None:
    scorer = CLIPScorer(save_siglip(tmp_path), "siglip")
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    model: Any = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        PROMPTS, padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        logits = model(pixel_values=images * 2 - 1, input_ids=tokens).logits_per_image
    expected = (logits - model.logit_bias) / model.logit_scale.exp()
    torch.testing.assert_close(cosines(scorer, images), expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(32, 32), (48, 96), (100, 61)], ids=str)
def test_siglip_2_takes_any_aspect_ratio_as_its_processor_cuts_it(shape: tuple[int, int], tmp_path: Path) -> None:
    scorer = CLIPScorer(save_siglip(tmp_path, naflex=True), "siglip2")
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    inputs = processor(images=list(pixels), return_tensors="pt")
    model: Any = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model.get_image_features(**inputs).pooler_output
    ours = scorer.embed_inputs(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=-1), atol=2e-3, rtol=0)


def test_a_clip_whose_first_layer_takes_latents_reads_latents(tmp_path: Path) -> None:
    scorer = CLIPScorer(save_clip(tmp_path, channels=4, size=16), "latentclip")
    assert scorer.reads == "latent"
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    model: Any = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=latents, **tokens).logits_per_image / model.logit_scale.exp()
    torch.testing.assert_close(cosines(scorer, latents), logits, atol=1e-5, rtol=0)


def test_pickscore_is_the_scaled_cosine_of_a_clip(tmp_path: Path) -> None:
    scorer = CLIPScorer(save_clip(tmp_path), "pickscore", "image", scaled=True)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    model: Any = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=images * 2 - 1, **tokens).logits_per_image
    torch.testing.assert_close(cosines(scorer, images) * scorer.scale, logits, atol=1e-4, rtol=0)


def test_half_precision_is_another_scorer_with_nearly_the_same_scores(tmp_path: Path) -> None:
    from nbench.scorers.placement import Placement

    whole, half = (
        CLIPScorer(save_clip(tmp_path), placement=Placement("cpu", kind)) for kind in ("float32", "bfloat16")
    )
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    assert whole.fingerprint != half.fingerprint
    assert half.embed_inputs(images).dtype == torch.float32
    torch.testing.assert_close(cosines(half, images), cosines(whole, images), atol=0.05, rtol=0)
    with pytest.raises(NbenchError, match="unknown dtype int4"):
        Placement("cpu", "int4")


def test_a_model_without_two_towers_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(NbenchError, match="is a t5, not a model with an image and a text tower"):
        CLIPScorer(tmp_path).load()


def test_blip_itm_is_the_matching_heads_probability(tmp_path: Path) -> None:
    from transformers import BlipForImageTextRetrieval

    from nbench.scorers.blip import BLIPMatchScorer

    scorer = BLIPMatchScorer(save_blip_itm(tmp_path))
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    model = BlipForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for image, prompt, score in zip(images, PROMPTS, scorer.score(images, PROMPTS), strict=True):
        tokens = tokenizer([prompt], return_tensors="pt")
        with torch.no_grad():
            logits = model(pixel_values=image[None] * 2 - 1, **tokens).itm_score
        odds = (logits[0, 1] - logits[0, 0]).exp()
        torch.testing.assert_close(score, odds / (1 + odds), atol=1e-5, rtol=0)
