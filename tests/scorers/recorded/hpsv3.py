"""A small random HPSv3, and its scores by the package hpsv3 in hpsv3.json.

`PYTHON hpsv3.py [--check]` records them, or compares with those recorded, in the environment that
`nbench env hpsv3` makes.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path[0] = str(HERE.parents[2] / "scorers" / "environments")  # this file is called as the package
sys.path.append(str(HERE))
recorded: Any = importlib.import_module("clip_flant5")

RECORDED = HERE / "hpsv3.json"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
WIDTH = 32


def save_qwen2_vl(folder: Path) -> Path:
    """A Qwen2VLForConditionalGeneration and its processor, whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Qwen2TokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = Qwen2TokenizerFast(tokenizer_object=words, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad")}
    config = Qwen2VLConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]},
        vision_config={"depth": 1, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["image_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2VLProcessor(Qwen2VLImageProcessor(), tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def save_hpsv3(folder: Path) -> Path:
    """A folder that `env:hpsv3:FOLDER` opens, in float32; needs the environment of the package."""
    package: Any = importlib.import_module("hpsv3.inference")
    base = save_qwen2_vl(folder / "qwen")
    published = (Path(package.__file__).parent / "config" / "HPSv3_7B.yaml").read_text()
    ours = published.replace("Qwen/Qwen2-VL-7B-Instruct", str(base)).replace("bf16: True", "bf16: False")
    (folder / "HPSv3_7B.yaml").write_text(ours.replace('torch_dtype: "bfloat16"', 'torch_dtype: "float32"'))
    made: list[Any] = []
    create = package.create_model_and_processor

    def keep(**settings: Any) -> Any:
        made.append(create(**settings))
        raise InterruptedError

    package.create_model_and_processor = keep
    try:  # the package alone knows the model's class and the tokens that it adds
        package.HPSv3RewardInferencer(str(folder / "HPSv3_7B.yaml"), "none", "cpu")
    except InterruptedError:
        package.create_model_and_processor = create
    shapes = {name: tuple(value.shape) for name, value in made[0][0].state_dict().items()}
    save_file(recorded._tensors(shapes), folder / "HPSv3.safetensors", {"format": "pt"})
    return folder


def package_scores() -> list[list[float]]:
    """Scores [image, prompt] of the package, by the adapter of `env:hpsv3`."""
    adapters: Any = importlib.import_module("adapters")
    adapters.declare_torchvision_operators()
    prompts = recorded.PROMPTS
    with tempfile.TemporaryDirectory() as folder:
        scorer = adapters.HPSv3("cpu", str(save_hpsv3(Path(folder))))
        return [scorer.score(image.repeat(len(prompts), 1, 1, 1), prompts).tolist() for image in recorded.images()]


if __name__ == "__main__":
    torch.manual_seed(0)
    recorded.record_or_check(package_scores(), RECORDED, ("hpsv3", "transformers", "torch"))
