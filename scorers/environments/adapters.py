"""Scorers of packages that have environments of their own; runs there, in a worker, and imports nothing of nbench.

`PYTHON adapters.py CLASS` prints one line of JSON: the build of torch, and what the package can do.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import json
import sys
import tempfile
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


class T2V:
    """t2v_metrics (Lin et al., arXiv 2404.01291): one of its VQAScore models, pair by pair as the package does."""

    reads = "image"

    def __init__(self, device: str, model: str = "clip-flant5-xxl") -> None:
        families = t2v_families()
        modules = [module for module, names in families.items() if model in names]
        if not modules:
            every = [name for names in families.values() for name in names]
            near = difflib.get_close_matches(model, every, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"t2v_metrics has no model {model}{hint}: there are {', '.join(every)}")
        module = t2v_module(modules[0])
        (kind,) = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "load_model")
        ]
        from huggingface_hub.constants import HF_HUB_CACHE

        self._model = kind(model, device=device, cache_dir=HF_HUB_CACHE)
        if torch.device(device).type == "cpu":
            self._model.model.float()  # the package computes in bfloat16, which CPUs do slowly
        dtype = str(next(self._model.model.parameters()).dtype).replace("torch.", "")
        self.name = f"t2v-{model}"
        self.fingerprint = f"t2v-metrics-{version('t2v-metrics')}-{model}-{dtype}"

    def score(self, inputs: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Scores [B] of RGB images [B, 3, H, W] in 0..1."""
        with tempfile.TemporaryDirectory() as folder:
            pairs = zip(image_files(inputs, Path(folder)), prompts, strict=True)
            return torch.cat([self._model.forward([file], [prompt]).float().cpu() for file, prompt in pairs])


class ImageReward:
    """ImageReward (Xu et al., arXiv 2304.05977). model: a folder with ImageReward.pt and med_config.json."""

    name = "image-reward"
    reads = "image"

    def __init__(self, device: str, model: str = "") -> None:
        declare_torchvision_operators()
        package = importlib.import_module("ImageReward")
        folder = Path(model)
        files = {"name": str(folder / "ImageReward.pt"), "med_config": str(folder / "med_config.json")} if model else {}
        self._model = package.load(device=device, **files)
        self.fingerprint = f"image-reward-{version('image-reward')}" + (f"-{digest(folder)}" if model else "")

    def score(self, inputs: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Scores [B] of RGB images [B, 3, H, W] in 0..1."""
        return torch.tensor([self._model.score(*pair) for pair in zip(prompts, images(inputs), strict=True)])


class HPSv3:
    """HPSv3 (Ma et al., arXiv 2508.03789): the mean of its predicted preference.

    model: a folder with HPSv3.safetensors and HPSv3_7B.yaml, which names a Qwen2-VL (model_name_or_path).
    """

    name = "hpsv3"
    reads = "image"

    def __init__(self, device: str, model: str = "") -> None:
        declare_torchvision_operators()
        folder = Path(model)
        files = {"config_path": "HPSv3_7B.yaml", "checkpoint_path": "HPSv3.safetensors"} if model else {}
        paths = {argument: str(folder / file) for argument, file in files.items()}
        self._model = importlib.import_module("hpsv3").HPSv3RewardInferencer(device=device, **paths)
        self.fingerprint = f"hpsv3-{version('hpsv3')}" + (f"-{digest(folder)}" if model else "")

    @torch.no_grad()
    def score(self, inputs: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Scores [B] of RGB images [B, 3, H, W] in 0..1."""
        with tempfile.TemporaryDirectory() as folder:
            pairs = zip(image_files(inputs, Path(folder)), prompts, strict=True)
            return torch.cat([self._model.reward([file], [prompt])[:, 0].float().cpu() for file, prompt in pairs])


def images(inputs: torch.Tensor) -> list[Any]:
    """RGB [B, 3, H, W] in 0..1 as PIL images."""
    from PIL import Image

    return [Image.fromarray(image) for image in (inputs * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def image_files(inputs: torch.Tensor, folder: Path) -> list[str]:
    """RGB [B, 3, H, W] in 0..1 as files without compression."""
    paths = [str(folder / f"{number}.bmp") for number in range(len(inputs))]
    for path, image in zip(paths, images(inputs), strict=True):
        image.save(path)
    return paths


def digest(folder: Path) -> str:
    """A short hash of the files of a model."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def declare_torchvision_operators() -> None:
    """Let a torchvision that was built for CUDA be imported beside a CPU build of torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or torch.version.cuda is not None:
        return
    built_for_cuda = "+cu" in (Path(spec.origin).parent / "version.py").read_text().partition("\n")[0]
    if built_for_cuda and not _libraries:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)  # an operator lives as long as its library


_libraries: list[Any] = []


def t2v_families() -> dict[str, list[str]]:
    """The names of the VQAScore models of t2v_metrics by module, read without importing it."""
    folder = _t2v_folder() / "models" / "vqascore_models"
    families: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*_model.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign([ast.Name(name)], ast.Dict(keys)) if name.endswith("_MODELS"):
                    families[path.stem] = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return families


def t2v_module(family: str) -> Any:
    """One family's module, without the modules of all others, which need many more packages and FFmpeg."""
    declare_torchvision_operators()
    folder = _t2v_folder()
    for name in ("t2v_metrics", "t2v_metrics.models", "t2v_metrics.models.vqascore_models"):
        if name not in sys.modules:
            package = ModuleType(name)
            package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
    return importlib.import_module(f"t2v_metrics.models.vqascore_models.{family}")


def _t2v_folder() -> Path:
    if "t2v_metrics" in sys.modules:
        return Path(sys.modules["t2v_metrics"].__path__[0])
    spec = importlib.util.find_spec("t2v_metrics")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def about(scorer: str) -> dict[str, Any]:
    """What `nbench env` reports."""
    parts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if scorer != "T2V":
        declare_torchvision_operators()
        importlib.import_module({"ImageReward": "ImageReward", "HPSv3": "hpsv3"}[scorer])
        return parts
    families = t2v_families()
    parts["missing"], parts["models"] = {}, []
    for family, names in families.items():
        try:
            t2v_module(family)
            parts["models"] += names
        except Exception as error:  # their packages fail in many ways
            parts["missing"][family] = f"{type(error).__name__}: {error}"
    return parts


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        answer = about(sys.argv[1])
    print(json.dumps(answer))
