"""A small random LLaVA-1.5 in its authors' layout and in that of transformers; llava.json has its scores.

`PYTHON llava.py [--check]` records them, or compares with those recorded, in the environment that
`nbench env t2v_metrics` makes.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
recorded: Any = importlib.import_module("clip_flant5")  # beside this file, in an environment without nbench

RECORDED = HERE / "llava.json"
VOCABULARY, WIDTH, LAYERS, HEADS = 480, 32, 2, 4
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
ROWS = VOCABULARY + 8
"""In the layout of transformers, which adds the tokens of image and padding, and more than these need."""


def save_original(folder: Path, tower: Path) -> Path:
    """As liuhaotian/llava-v1.5-7b: a LlavaLlamaForCausalLM and the name of its CLIP."""
    folder.mkdir(parents=True)
    projector = {
        "mm_vision_tower": str(tower),
        "mm_hidden_size": recorded.WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
    }
    write(folder / "config.json", {"model_type": "llava-v1.5", **TEXT, **projector})
    shutil.copy(HERE / "llava.spiece.model", folder / "tokenizer.model")
    write(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    save_file(recorded._tensors(_shapes()), folder / "model.safetensors", {"format": "pt"})
    return folder


def save_converted(folder: Path) -> Path:
    """As llava-hf/llava-1.5-7b-hf: a LlavaForConditionalGeneration, its tokenizer and image processor."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": VOCABULARY,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {**TEXT, "model_type": "llama", "vocab_size": ROWS},
        "vision_config": recorded.CLIP_CONFIG,
    }
    write(folder / "config.json", config)
    write(folder / "preprocessor_config.json", recorded.PROCESSOR)
    shutil.copy(HERE / "llava.tokenizer.json", folder / "tokenizer.json")
    renamed = {
        "model.mm_projector.0": "multi_modal_projector.linear_1",
        "model.mm_projector.2": "multi_modal_projector.linear_2",
        "model.": "language_model.model.",
        "lm_head": "language_model.lm_head",
    }
    tensors = {}
    for name, value in recorded._tensors(_shapes()).items():
        start = next(start for start in renamed if name.startswith(start))
        more = torch.full((ROWS - VOCABULARY, WIDTH), 3.0) if len(value) == VOCABULARY else value[:0]
        tensors[renamed[start] + name.removeprefix(start)] = torch.cat([value, more])
    for name, value in recorded._tensors(recorded._clip_shapes()).items():
        tensors[f"vision_tower.{name}"] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2))


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "lm_head.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "model.mm_projector.0.weight": (WIDTH, recorded.WIDTH),
        "model.mm_projector.0.bias": (WIDTH,),
        "model.mm_projector.2.weight": (WIDTH, WIDTH),
        "model.mm_projector.2.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (64, WIDTH) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (WIDTH, 64)}
        shapes |= {f"{at}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    return shapes


def package_scores() -> list[list[float]]:
    """Scores [image, prompt] of t2v_metrics in float32; needs its environment."""
    sys.path.insert(0, str(HERE.parents[2] / "scorers" / "environments"))
    adapters: Any = importlib.import_module("adapters")
    module = adapters.t2v_module("llava_model")
    with tempfile.TemporaryDirectory() as folder:
        model = save_original(Path(folder, "model"), recorded.save_clip_tower(Path(folder, "clip")))
        names = module.LLAVA_MODELS["llava-v1.5-7b"]
        names["model"]["path"] = names["tokenizer"]["path"] = str(model)
        scorer = adapters.T2V("cpu", "llava-v1.5-7b")
        prompts = recorded.PROMPTS
        return [scorer.score(image.repeat(len(prompts), 1, 1, 1), prompts).tolist() for image in recorded.images()]


if __name__ == "__main__":
    recorded.record_or_check(package_scores(), RECORDED, ("t2v-metrics", "transformers", "torch"))
