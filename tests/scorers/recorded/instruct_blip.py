"""A small random InstructBLIP in its authors' layout and in that of transformers; instruct_blip.json has its scores.

`PYTHON instruct_blip.py [--check]` records them, or compares with those recorded, in the environment that
`nbench env t2v_metrics` makes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
recorded: Any = importlib.import_module("clip_flant5")  # beside this file, in an environment without nbench

RECORDED = HERE / "instruct_blip.json"
PROMPTS = [*recorded.PROMPTS, "two red circles and " * 60 + "one square"]
"""The last one is too long."""
WIDTH, LAYERS, HEADS, SIDE, PATCH, QUERIES = 32, 2, 4, 224, 56, 32
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] two red circles above one blue square question does this figure show ? on no and ,"
)
BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": len(WORDS.split()),
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 256,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
T5 = {name: value for name, value in recorded.T5_CONFIG.items() if not name.startswith(("mm_", "architectures"))}
T5 |= {"model_type": "t5"}
RENAMED = {
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj": "vision_model.embeddings.patch_embedding",
    "visual_encoder.blocks": "vision_model.encoder.layers",
    "ln_vision": "vision_model.post_layernorm",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.proj.": ".self_attn.projection.",
    ".attn.qkv.": ".self_attn.qkv.",
    "embeddings.LayerNorm": "embeddings.layernorm",
    "attention.self": "attention.attention",
    "Qformer.bert": "qformer",
    "t5_proj": "language_projection",
    "t5_model": "language_model",
}
"""As transformers' own conversion of the published checkpoint."""


def save_bert(folder: Path) -> Path:
    """The BERT that gives the Q-Former its tokenizer and configuration."""
    _write(_save_words(folder) / "config.json", BERT)
    name = "Qformer.bert.embeddings.LayerNorm.bias"  # all weights come from the checkpoint
    save_file({name.removeprefix("Qformer."): tensors()[name]}, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_t5(folder: Path) -> Path:
    """A Flan-T5 with its tokenizer."""
    _write(recorded.save_tokenizer(folder) / "config.json", T5)
    start = "t5_model."
    weights = {name.removeprefix(start): value for name, value in tensors().items() if name.startswith(start)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_converted(folder: Path) -> Path:
    """As Salesforce/instructblip-flan-t5-xl: an InstructBlipForConditionalGeneration and what prepares its inputs."""
    recorded.save_tokenizer(folder)
    _save_words(folder / "qformer_tokenizer")
    config = {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "model_type": "instructblip",
        "num_query_tokens": QUERIES,
        "image_token_index": recorded.VOCABULARY - 1,
        "vision_config": {
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": SIDE,
            "patch_size": PATCH,
            "layer_norm_eps": 1e-6,
        },
        "qformer_config": {
            **BERT,
            "model_type": "instructblip_qformer",
            "vocab_size": BERT["vocab_size"] + 1,
            "cross_attention_frequency": 2,
            "encoder_hidden_size": WIDTH,
        },
        "text_config": {**T5, "dense_act_fn": "gelu"},
    }
    _write(folder / "config.json", config)
    square = {"height": SIDE, "width": SIDE}
    _write(
        folder / "preprocessor_config.json",
        {**recorded.PROCESSOR, "image_processor_type": "BlipImageProcessor", "size": square, "do_center_crop": False},
    )
    weights = tensors()
    for layer in range(LAYERS):
        at = f"visual_encoder.blocks.{layer}.attn"
        query, value = weights.pop(f"{at}.q_bias"), weights.pop(f"{at}.v_bias")
        weights[f"{at}.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    save_file(
        {_renamed(name): value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def tensors() -> dict[str, torch.Tensor]:
    """The whole model, with its authors' names; bfloat16 and float16 hold it exactly."""
    shapes = {name: shape for name, shape in recorded._t5_shapes().items() if not name.startswith("mm_")}
    weights = recorded._tensors({f"t5_model.{name}": shape for name, shape in shapes.items()} | _shapes())
    weights["ln_vision.weight"] += 1
    for name in weights:
        if name.startswith("visual_encoder") and ".norm" not in name:
            # features so small that the epsilon of the norm after them counts
            weights[name] *= 2**-11 if "patch_embed" in name else 2**-4
    return {name: value.half().float() for name, value in weights.items()}


def _save_words(folder: Path) -> Path:
    """The tokenizer of the Q-Former."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()))
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    return folder


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2))


def _shapes() -> dict[str, tuple[int, ...]]:
    inner = 4 * WIDTH
    linear = {"t5_proj": (recorded.D, WIDTH)}
    norms = ["ln_vision", "Qformer.bert.embeddings.LayerNorm"]
    shapes: dict[str, tuple[int, ...]] = {
        "visual_encoder.cls_token": (1, 1, WIDTH),
        "visual_encoder.pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "visual_encoder.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "visual_encoder.patch_embed.proj.bias": (WIDTH,),
        "query_tokens": (1, QUERIES, WIDTH),
        "Qformer.bert.embeddings.word_embeddings.weight": (len(WORDS.split()) + 1, WIDTH),
        "Qformer.bert.embeddings.position_embeddings.weight": (256, WIDTH),
    }
    for layer in range(LAYERS):
        at = f"visual_encoder.blocks.{layer}"
        shapes |= {f"{at}.attn.{name}_bias": (WIDTH,) for name in "qv"}
        shapes[f"{at}.attn.qkv.weight"] = (3 * WIDTH, WIDTH)
        linear |= {f"{at}.attn.proj": (WIDTH, WIDTH), f"{at}.mlp.fc1": (inner, WIDTH), f"{at}.mlp.fc2": (WIDTH, inner)}
        norms += [f"{at}.norm1", f"{at}.norm2"]
        at = f"Qformer.bert.encoder.layer.{layer}"
        for attention in ("attention", "crossattention") if layer % 2 == 0 else ("attention",):
            linear |= {f"{at}.{attention}.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
            linear[f"{at}.{attention}.output.dense"] = (WIDTH, WIDTH)
            norms.append(f"{at}.{attention}.output.LayerNorm")
        for part in ("", "_query"):
            linear |= {f"{at}.intermediate{part}.dense": (2 * WIDTH, WIDTH)}
            linear |= {f"{at}.output{part}.dense": (WIDTH, 2 * WIDTH)}
            norms.append(f"{at}.output{part}.LayerNorm")
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    return shapes


def package_scores() -> list[list[float]]:
    """Scores [image, prompt] of t2v_metrics in float32, with smaller towers; needs its environment."""
    sys.path.insert(0, str(HERE.parents[2] / "scorers" / "environments"))
    adapters: Any = importlib.import_module("adapters")
    adapters.t2v_module("instructblip_model")
    models = "t2v_metrics.models.vqascore_models.lavis.models"
    base: Any = importlib.import_module(f"{models}.blip2_models.blip2")
    towers: Any = importlib.import_module(f"{models}.eva_vit")

    def small_tower(size: int, *_: Any) -> Any:
        norm = partial(torch.nn.LayerNorm, eps=1e-6)
        sizes = {"embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, "mlp_ratio": 4, "patch_size": PATCH}
        tower = towers.VisionTransformer(size, qkv_bias=True, use_mean_pooling=False, norm_layer=norm, **sizes)
        towers.convert_weights_to_fp16(tower)
        return tower

    base.create_eva_vit_g, base.download_cached_file = small_tower, lambda *_, **__: "weights.pth"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where the names of BERT and T5 are those of folders
        save_bert(Path("bert-base-uncased"))
        save_t5(Path("google", "flan-t5-xl"))
        torch.save({"model": tensors()}, "weights.pth")
        scorer = adapters.T2V("cpu", "instructblip-flant5-xl")
        missing = set(tensors()) - set(scorer._model.model.state_dict())
        assert not missing, missing
        return [scorer.score(image.repeat(len(PROMPTS), 1, 1, 1), PROMPTS).tolist() for image in recorded.images()]


if __name__ == "__main__":
    recorded.record_or_check(package_scores(), RECORDED, ("t2v-metrics", "transformers", "torch"))
