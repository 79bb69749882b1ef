"""The parts that tiny randomly initialised pipelines share: autoencoder and text encoders."""

from __future__ import annotations

from typing import Any

from nbench.shapes.tokenizer import END, PAD, START, build_tokenizer

TOKENS = 16
CHAT = "{% for message in messages %}<user> {{ message['content'] }} <assistant>{% endfor %}"


def vae(channels: tuple[int, ...] = (8, 16), **settings: float) -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        norm_num_groups=4,
        mid_block_add_attention=False,
        **settings,
    )


def clip(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = build_tokenizer(TOKENS)
    names = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=16,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(build_tokenizer(TOKENS)), **sizes))


def decoder() -> dict[str, Any]:
    return {
        "vocab_size": len(build_tokenizer(TOKENS)),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
