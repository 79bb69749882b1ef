"""A small random ImageReward with the package's names of tensors, and its scores by image-reward in image_reward.json.

`PYTHON image_reward.py [--check]` records them, or compares with those recorded, in the environment that
`nbench env image-reward` makes.
"""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
RECORDED = HERE / "image_reward.json"
PROMPTS = ["two red circles above one blue square", "one", "no circle , " + "three unknown things , " * 20]
SIZES = [(40, 57), (57, 40), (32, 32)]
WIDTH, PATCH, LAYERS = 128, 16, 2
MED = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": 60,
    "encoder_width": WIDTH,
    "add_cross_attention": True,
}
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] two red circles circle above one blue square no three things ,"


def images() -> list[torch.Tensor]:
    """RGB [1, 3, H, W] in 0..1, of 8 bits."""
    pixels = [np.random.RandomState(row).randint(0, 256, (1, 3, *size)) for row, size in enumerate(SIZES)]
    return [torch.from_numpy(image.astype(np.float32) / 255) for image in pixels]


def tensors() -> dict[str, torch.Tensor]:
    """Random tensors of their names and shapes."""
    made = {}
    for name, shape in _shapes().items():
        norm = len(shape) == 1 and "norm" in name.lower() and name.endswith("weight")
        scale = shape[-1] ** -0.5 if len(shape) == 2 and "embeddings" not in name else 0.1
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape) * scale + norm
        made[name] = torch.from_numpy(values.astype(np.float32))
    return made


def save_image_reward(folder: Path) -> Path:
    """The converted model, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "med_config.json").write_text(json.dumps(MED))
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()))
    save_file(tensors(), folder / "ImageReward.safetensors")
    return folder


def _shapes() -> dict[str, tuple[int, ...]]:
    linear: dict[str, tuple[int, int]] = {}
    norms: dict[str, int] = {"visual_encoder.norm": WIDTH, "text_encoder.embeddings.LayerNorm": 64}
    for layer in range(LAYERS):
        at = f"visual_encoder.blocks.{layer}"
        linear |= {f"{at}.attn.qkv": (3 * WIDTH, WIDTH), f"{at}.attn.proj": (WIDTH, WIDTH)}
        linear |= {f"{at}.mlp.fc1": (4 * WIDTH, WIDTH), f"{at}.mlp.fc2": (WIDTH, 4 * WIDTH)}
        norms |= {f"{at}.norm1": WIDTH, f"{at}.norm2": WIDTH}
        at = f"text_encoder.encoder.layer.{layer}"
        for attention, width in (("attention", 64), ("crossattention", WIDTH)):
            linear[f"{at}.{attention}.self.query"] = (64, 64)
            linear |= {f"{at}.{attention}.self.{name}": (64, width) for name in ("key", "value")}
            linear[f"{at}.{attention}.output.dense"] = (64, 64)
            norms[f"{at}.{attention}.output.LayerNorm"] = 64
        linear |= {f"{at}.intermediate.dense": (96, 64), f"{at}.output.dense": (64, 96)}
        norms[f"{at}.output.LayerNorm"] = 64
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, WIDTH),
        "blip.visual_encoder.pos_embed": (1, (224 // PATCH) ** 2 + 1, WIDTH),
        "blip.visual_encoder.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "blip.visual_encoder.patch_embed.proj.bias": (WIDTH,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (60, 64),
        "blip.text_encoder.embeddings.position_embeddings.weight": (64, 64),
    }
    for name, shape in linear.items():
        shapes |= {f"blip.{name}.weight": shape, f"blip.{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"blip.{name}.weight": (width,), f"blip.{name}.bias": (width,)}
    widths = [64, 1024, 128, 64, 16, 1]
    for place, (inner, outer) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        shapes |= {f"mlp.layers.{place}.weight": (outer, inner), f"mlp.layers.{place}.bias": (outer,)}
    return shapes


def package_scores(folder: Path) -> list[list[float]]:
    """Scores [image, prompt] of image-reward, with smaller towers; needs its environment."""
    sys.path.insert(0, str(HERE.parents[2] / "scorers" / "environments"))
    adapters: Any = importlib.import_module("adapters")
    adapters.declare_torchvision_operators()
    package: Any = importlib.import_module("ImageReward.ImageReward")
    blip: Any = importlib.import_module("ImageReward.models.BLIP.blip_pretrain")
    towers: Any = importlib.import_module("ImageReward.models.BLIP.blip")
    tower = partial(towers.VisionTransformer, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS, num_heads=WIDTH // 64)
    blip.create_vit = lambda vit, image_size, *_: (tower(img_size=image_size), WIDTH)
    save_image_reward(folder)
    tokenizer = towers.BertTokenizer(str(folder / "vocab.txt"))
    blip.init_tokenizer = lambda: tokenizer
    head = package.MLP
    package.MLP = lambda _: head(64)
    model = package.ImageReward(str(folder / "med_config.json"))
    missing = model.load_state_dict(tensors(), strict=False).missing_keys
    parts = ("blip.visual_encoder.", "blip.text_encoder.", "mlp.")
    assert not [name for name in missing if name.startswith(parts) and not name.endswith("position_ids")], missing
    model.eval()
    with torch.no_grad():
        pictures = [adapters.images(image)[0] for image in images()]
        return [[model.score(prompt, picture) for prompt in PROMPTS] for picture in pictures]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        scores = package_scores(Path(temporary))
    if "--check" in sys.argv:
        recorded = np.array(json.loads(RECORDED.read_text())["scores"])
        difference = float(np.abs(np.array(scores) - recorded).max() / np.abs(recorded).max())  # rewards pass through 0
        print(f"largest difference to the recorded scores, relative to the largest of them: {difference:.1e}")
        sys.exit(difference > 1e-5)
    from importlib.metadata import version

    versions = {name: version(name) for name in ("image-reward", "transformers", "torch")}
    RECORDED.write_text(json.dumps({"scores": scores, "versions": versions}, indent=2) + "\n")
