"""Tiny random models of the real classes, saved as others publish theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nbench.shapes.tokenizer import build_tokenizer

TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TEXT, "image_size": 32, "patch_size": 8}


def save_clip(path: Path, channels: int = 3, size: int = 32) -> Path:
    """A CLIPModel; with other than 3 channels it takes latents of `size`, as they are."""
    from transformers import CLIPConfig, CLIPModel

    vision = {**VISION, "num_channels": channels, "image_size": size}
    text = {**TEXT, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = CLIPConfig(text_config={**text, "vocab_size": 47}, vision_config=vision, projection_dim=8)
    square = {"height": 32, "width": 32}
    return _save(path, CLIPModel, config, {**_NORMAL, "size": square, "crop_size": square})


def save_siglip(path: Path, naflex: bool = False) -> Path:
    """A SiglipModel, or the Siglip2Model that takes images of any aspect ratio as patches."""
    from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

    text = {**TEXT, "vocab_size": 47, "max_position_embeddings": 16, "projection_size": 16}
    if naflex:
        vision = {**TEXT, "patch_size": 8, "num_patches": 16}
        config: Any = Siglip2Config(text_config=text, vision_config=vision)
        return _save(path, Siglip2Model, config, {"patch_size": 8, "max_num_patches": 16, "resample": 2, **_NORMAL})
    config = SiglipConfig(text_config=text, vision_config=VISION)
    return _save(path, SiglipModel, config, {**_NORMAL, "size": {"height": 32, "width": 32}, "resample": 3})


def save_aimv2(path: Path) -> Path:
    """An Aimv2Model, a dual encoder whose layers are not made as CLIP's."""
    from transformers import Aimv2Config, Aimv2Model

    text = {**TEXT, "vocab_size": 47, "max_position_embeddings": 16, "eos_token_id": 3}
    config = Aimv2Config(text_config=text, vision_config=VISION, projection_dim=8)
    return _save(path, Aimv2Model, config, {**_NORMAL, "size": {"height": 32, "width": 32}})


def save_blip_itm(path: Path) -> Path:
    """A BlipForImageTextRetrieval."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    text = {**TEXT, "vocab_size": 47, "encoder_hidden_size": 16, "max_position_embeddings": 32}
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=8, image_text_hidden_size=8)
    return _save(path, BlipForImageTextRetrieval, config, {**_NORMAL, "size": {"height": 32, "width": 32}})


def save_llava(path: Path) -> Path:
    """A LlavaForConditionalGeneration with its processor and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = (
        "<pad> <unk> <image> USER ASSISTANT Yes No Does this figure show Please answer yes or no two red circles blue"
    )
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words.split()))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for m in messages %}USER {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT "
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    text = {**TEXT, "model_type": "llama", "vocab_size": 40, "num_key_value_heads": 2, "pad_token_id": 0}
    config = LlavaConfig(
        text_config=text,
        vision_config={**VISION, "model_type": "clip_vision_model"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


_NORMAL = {
    "do_center_crop": False,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_normalize": True,
    "do_rescale": True,
}


def _save(path: Path, kind: Any, config: Any, processing: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    kind(config).save_pretrained(path)
    build_tokenizer(16).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(processing))
    return path
