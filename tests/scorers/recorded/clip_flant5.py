"""A small random CLIP-FlanT5 in the published layout, and its scores by t2v_metrics in clip_flant5.json.

`PYTHON clip_flant5.py [--check]` records them, or compares with those recorded, in the environment that
`nbench env t2v_metrics` makes.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
RECORDED = HERE / "clip_flant5.json"
PROMPTS = [
    "two red circles above one blue square on gray background",
    "one square",
    "no circle on gray background , three unknown things , a café and five more words",
]
SIZES = [(40, 56), (56, 40), (28, 28)]
"""Height and width of the images."""
D, HEADS, D_KV, D_FF, LAYERS, VOCABULARY = 32, 4, 8, 64, 2, 256
WIDTH, CLIP_LAYERS, SIDE, PATCH = 32, 3, 28, 14
T5_CONFIG = {
    "architectures": ["CLIPT5ForConditionalGeneration"],
    "model_type": "clip_t5",
    "is_encoder_decoder": True,
    "d_model": D,
    "d_kv": D_KV,
    "d_ff": D_FF,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "vocab_size": VOCABULARY,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "mm_hidden_size": WIDTH,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
}
FACTORS: dict[str, float] = {"lm_head": 2, "mm_projector": 2, "EncDecAttention.o": 2, "Attention.q": D_KV**-0.5}
"""Larger and smaller tensors: scores should depend on images and prompts much more than on rounding."""
CLIP_CONFIG = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": CLIP_LAYERS,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_act": "quick_gelu",
}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def images() -> list[torch.Tensor]:
    """RGB [1, 3, H, W] in 0..1, of 8 bits."""
    pixels = [np.random.RandomState(row).randint(0, 256, (1, 3, *size)) for row, size in enumerate(SIZES)]
    return [torch.from_numpy(image.astype(np.float32) / 255) for image in pixels]


def save_tokenizer(folder: Path) -> Path:
    """The tokenizer of google/flan-t5-xxl, with fewer tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "clip_flant5.spiece.model", folder / "spiece.model")
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 100})
    return folder


def save_clip_tower(folder: Path) -> Path:
    """A CLIPVisionModel."""
    folder.mkdir(parents=True)
    _write(folder / "config.json", CLIP_CONFIG)
    _write(folder / "preprocessor_config.json", PROCESSOR)
    save_file(_tensors(_clip_shapes()), folder / "model.safetensors", {"format": "pt"})
    return folder


def save_clip_t5(folder: Path, tower: Path, with_tower: bool = True) -> Path:
    """A CLIPT5ForConditionalGeneration, with the tensors of its tower or without."""
    folder.mkdir(parents=True)
    _write(folder / "config.json", {**T5_CONFIG, "mm_vision_tower": str(tower)})
    tensors = _tensors(_t5_shapes())
    if with_tower:
        tensors |= {f"vision_tower.vision_tower.{name}": value for name, value in _tensors(_clip_shapes()).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2))


def _tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random tensors of their names and shapes, which bfloat16 holds exactly."""
    tensors = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        scale = 1.0 if "shared" in name or "relative" in name else shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        scale *= next((factor for part, factor in FACTORS.items() if part in name), 1.0)
        norm = len(shape) == 1 and "norm" in name.lower() and name.endswith("weight")
        tensor = torch.from_numpy((values * scale + norm).astype(np.float32))
        tensors[name] = tensor.bfloat16().float()
    return tensors


def _t5_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (VOCABULARY, D), "lm_head.weight": (VOCABULARY, D)}
    for stack in ("encoder", "decoder"):
        attentions = ["SelfAttention"] if stack == "encoder" else ["SelfAttention", "EncDecAttention"]
        for block in range(LAYERS):
            at = f"{stack}.block.{block}.layer"
            for layer, attention in enumerate(attentions):
                inner = HEADS * D_KV
                shapes |= {f"{at}.{layer}.{attention}.{name}.weight": (inner, D) for name in "qkv"}
                shapes |= {f"{at}.{layer}.{attention}.o.weight": (D, inner), f"{at}.{layer}.layer_norm.weight": (D,)}
            last = f"{at}.{len(attentions)}"
            shapes |= {f"{last}.DenseReluDense.{name}.weight": (D_FF, D) for name in ("wi_0", "wi_1")}
            shapes |= {f"{last}.DenseReluDense.wo.weight": (D, D_FF), f"{last}.layer_norm.weight": (D,)}
        shapes[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, HEADS)
        shapes[f"{stack}.final_layer_norm.weight"] = (D,)
    for place, width in (("0", WIDTH), ("2", D)):
        shapes |= {f"mm_projector.{place}.weight": (D, width), f"mm_projector.{place}.bias": (D,)}
    return shapes


def _clip_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2 + 1, WIDTH),
    }
    linear = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (64, WIDTH), "mlp.fc2": (WIDTH, 64)}
    norms = ["pre_layrnorm", "post_layernorm"]
    for layer in range(CLIP_LAYERS):
        at = f"encoder.layers.{layer}"
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        for name, shape in linear.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def package_scores() -> list[list[float]]:
    """Scores [image, prompt] of t2v_metrics in float32; needs its environment."""
    sys.path.insert(0, str(HERE.parents[2] / "scorers" / "environments"))
    adapters: Any = importlib.import_module("adapters")
    module = adapters.t2v_module("clip_t5_model")
    with tempfile.TemporaryDirectory() as folder:
        tower = save_clip_tower(Path(folder, "clip"))
        model = save_clip_t5(Path(folder, "model"), tower)
        names = module.CLIP_T5_MODELS["clip-flant5-xxl"]
        names["model"]["path"], names["tokenizer"]["path"] = str(model), str(save_tokenizer(Path(folder, "texts")))
        scorer = adapters.T2V("cpu", "clip-flant5-xxl")
        return [scorer.score(image.repeat(len(PROMPTS), 1, 1, 1), PROMPTS).tolist() for image in images()]


def record_or_check(scores: list[list[float]], file: Path, packages: tuple[str, ...]) -> None:
    """Record scores with the versions of packages, or, with --check, compare with the recorded ones."""
    if "--check" in sys.argv:
        recorded = np.array(json.loads(file.read_text())["scores"])
        difference = float(np.abs(np.array(scores) / recorded - 1).max())
        print(f"largest relative difference to the recorded scores: {difference:.1e}")
        sys.exit(difference > 1e-5)
    from importlib.metadata import version

    versions = {name: version(name) for name in packages}
    file.write_text(json.dumps({"scores": scores, "versions": versions}, indent=2) + "\n")


if __name__ == "__main__":
    record_or_check(package_scores(), RECORDED, ("t2v-metrics", "transformers", "torch"))
