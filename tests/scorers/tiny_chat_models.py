"""Tiny random image-text-to-text models of many classes, each with the processor of its class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = (
    "Yes No Does this figure show Please answer yes or no . ? two red circles on gray background blue USER ASSISTANT"
)
TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}USER {% for c in m['content'] %}{% if c['type'] == 'image' %} IMAGE "
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT "
)
_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_DECODER = _TEXT | {"num_key_value_heads": 2, "vocab_size": 80, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_VISION = _TEXT | {"image_size": 32, "patch_size": 8}
_QFORMER = _TEXT | {"encoder_hidden_size": 16, "vocab_size": 80}
_OPT = {"model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 16, **_DECODER}
_T5 = {"model_type": "t5", "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 80}
_SQUARE = {"height": 32, "width": 32}
_CLIP_SIZES = {"size": {"shortest_edge": 32}, "crop_size": _SQUARE}

Made = tuple[Any, Any]
"""A model and its processor."""


def tokenizer(*special: str, **named: str) -> Any:
    """Words apart by spaces, of which it knows `WORDS`; begins with a <s> of its own."""
    words = ["<pad>", "<unk>", "<s>", "</s>", "<image>", *special, *WORDS.split()]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    raw.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 2)])
    fast_tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named or None,
    )
    fast_tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *special]})
    return fast_tokenizer


def images(name: str, **settings: Any) -> Any:
    """An image processor that needs no torchvision."""
    return getattr(tf, f"{name}ImageProcessorPil")(**settings)


def _llava(template: str | None = TEMPLATE.replace("IMAGE", "<image>")) -> Made:
    words = tokenizer(image_token="<image>")
    config = tf.LlavaConfig(
        text_config=_DECODER | {"model_type": "llama"},
        vision_config=_VISION | {"model_type": "clip_vision_model"},
        image_token_id=words.image_token_id,
    )
    processor = tf.LlavaProcessor(
        images("CLIP", **_CLIP_SIZES),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return tf.LlavaForConditionalGeneration(config), processor


def _gemma3() -> Made:
    words = tokenizer("<boi>", "<eoi>", image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    config = tf.Gemma3Config(
        text_config=_DECODER | {"head_dim": 8, "sliding_window": 64},
        vision_config=_VISION,
        mm_tokens_per_image=4,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    processor = tf.Gemma3Processor(
        images("Gemma3", size=_SQUARE), words, chat_template=TEMPLATE.replace("IMAGE", "<boi>"), image_seq_length=4
    )
    return tf.Gemma3ForConditionalGeneration(config), processor


def _idefics3() -> Made:
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    words = tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles)
    config = tf.Idefics3Config(
        text_config=_DECODER | {"model_type": "llama"},
        vision_config=_VISION,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    processor = tf.Idefics3Processor(
        images("Idefics3", size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        words,
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return tf.Idefics3ForConditionalGeneration(config), processor


def _llava_next() -> Made:
    words, grid = tokenizer(image_token="<image>"), [[32, 64], [64, 32], [64, 64]]
    config = tf.LlavaNextConfig(
        text_config=_DECODER | {"model_type": "llama"},
        vision_config=_VISION | {"model_type": "clip_vision_model"},
        image_token_id=words.image_token_id,
        image_grid_pinpoints=grid,
    )
    processor = tf.LlavaNextProcessor(
        images("LlavaNext", image_grid_pinpoints=grid, **_CLIP_SIZES),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return tf.LlavaNextForConditionalGeneration(config), processor


def _mllama() -> Made:
    words = tokenizer("<|image|>")
    config = tf.MllamaConfig(
        text_config=_DECODER | {"cross_attention_layers": [1]},
        vision_config={
            **{key: value for key, value in _VISION.items() if key != "num_attention_heads"},
            "attention_heads": 2,
            "num_global_layers": 1,
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
            "max_num_tiles": 4,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
        pad_token_id=0,
    )
    processor = tf.MllamaProcessor(
        images("Mllama", size=_SQUARE, max_image_tiles=4), words, chat_template=TEMPLATE.replace("IMAGE", "<|image|>")
    )
    return tf.MllamaForConditionalGeneration(config), processor


def _paligemma() -> Made:
    words, squares = tokenizer(image_token="<image>"), images("Siglip", size=_SQUARE)
    squares.image_seq_length = 16
    config = tf.PaliGemmaConfig(
        text_config=_DECODER | {"model_type": "gemma", "head_dim": 8},
        vision_config=_VISION | {"model_type": "siglip_vision_model", "projection_dim": 16},
        image_token_id=words.image_token_id,
        projection_dim=16,
    )
    return tf.PaliGemmaForConditionalGeneration(config), tf.PaliGemmaProcessor(squares, words)


def _blip2(text: dict[str, Any]) -> Made:
    words = tokenizer()
    processor = tf.Blip2Processor(images("Blip", size=_SQUARE), words, num_query_tokens=4)
    config = tf.Blip2Config(
        vision_config=_VISION,
        qformer_config=_QFORMER,
        text_config=text | {"decoder_start_token_id": 0},
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return tf.Blip2ForConditionalGeneration(config), processor


def _instructblip() -> Made:
    words = tokenizer()
    processor = tf.InstructBlipProcessor(images("Blip", size=_SQUARE), words, tokenizer(), num_query_tokens=4)
    config = tf.InstructBlipConfig(
        vision_config=_VISION,
        qformer_config=_QFORMER,
        text_config=_OPT,
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return tf.InstructBlipForConditionalGeneration(config), processor


def _git() -> Made:
    config = tf.GitConfig(vision_config=_VISION, **_DECODER)
    return tf.GitForCausalLM(config), tf.GitProcessor(images("CLIP", **_CLIP_SIZES), tokenizer())


CHAT_MODELS: dict[str, Callable[[], Made]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "mllama": _mllama,
    "llava without a template": lambda: _llava(None),
    "paligemma": _paligemma,
    "blip-2": lambda: _blip2(_OPT),
    "blip-2 of T5": lambda: _blip2(_T5),
    "instructblip": _instructblip,
    "git": _git,
}
"""Classes that differ in how they take an image: by templates and lists, tiles, cross attention, or of themselves."""


def save_chat_model(name: str, path: Path) -> Path:
    """One of `CHAT_MODELS`, whose answers differ a good deal from image to image."""
    torch.manual_seed(0)
    model, processor = CHAT_MODELS[name]()
    for weight in model.parameters():
        if weight.ndim > 1 or weight.numel() == 1:  # not norms, but the gates of cross attention
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
