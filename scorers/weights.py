"""A scorer's weights: their local folder, their name and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import NbenchError, reason_of
from ..pipelines.quiet import quieten_transformers

_TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")
_PATTERNS = (*_TEXTS, "*.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth")
"""Weights that are loaded if a folder has no safetensors; never downloaded."""


def model_folder(source: str | Path, weights: bool = True, config: str = "config.json") -> Path:
    """The local folder of a model: `source` itself, or the snapshot of a Hub id (safetensors only, never a pickle).

    Args:
        weights: False fetches only tokenizer and preprocessing.
        config: a file that it must have.

    Raises:
        NbenchError: no such folder, and no such model can be reached on the Hub.
    """
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(source), allow_patterns=list(_PATTERNS if weights else _TEXTS)))
        except Exception as error:  # the Hub client raises many unrelated types
            raise NbenchError(
                f"no model {source}: not a folder, and not reachable on the Hub ({reason_of(error)})"
            ) from error
    if not (folder / config).is_file():
        raise NbenchError(f"no model in {folder}: it has no {config} (save one there with save_pretrained)")
    return folder


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The config.json of a model folder, or another JSON file.

    Raises:
        NbenchError: it is not a JSON object.
    """
    try:
        config = json.loads((folder / name).read_text("utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise NbenchError(f"{folder / name} is damaged: get the model again")
    return config


def whole_model(kind: Any, folder: Path, **settings: Any) -> Any:
    """The transformers model of a folder, opened as class `kind`; `settings` go to `from_pretrained`.

    Raises:
        NbenchError: the folder lacks tensors, or has them in another shape; transformers would draw them at random.
    """
    model, absent = partial_model(kind, folder, **settings)
    refuse_absent(folder, absent)
    return model


def partial_model(kind: Any, folder: Path, **settings: Any) -> tuple[Any, list[str]]:
    """As `whole_model`, with the names of tensors that the folder lacks and transformers has drawn at random."""
    quieten_transformers()
    model, report = kind.from_pretrained(folder, output_loading_info=True, **settings)
    return model, sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})


def refuse_absent(folder: Path, absent: Sequence[str]) -> None:
    """Refuse a model that lacks tensors.

    Raises:
        NbenchError: there are `absent` tensors.
    """
    if absent:
        raise NbenchError(
            f"{folder} lacks {len(absent)} of the model's tensors ({absent[0]}, ...), which would be random: "
            "get the whole model"
        )


def has_weights(folder: Path) -> bool:
    """Whether a model's folder has weights of any format."""
    return any(path.suffix not in (".json", ".jinja", ".txt", ".model") for path in _deciding(folder))


def folder_fingerprint(folder: Path, *parts: str) -> str:
    """Hash of the files that determine a model's output (weights, tokenizer, preprocessing) and of `parts`."""
    digest = hashlib.sha256(repr(parts).encode())
    for path in sorted(filter(Path.is_file, _deciding(folder))):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _deciding(folder: Path) -> set[Path]:
    files = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    files.update(folder.glob("additional_chat_templates/*.jinja"))
    if not any(path.suffix == ".safetensors" for path in files):
        files.update(path for pattern in _PICKLES for path in folder.glob(pattern))
    for index in folder.glob("*.index.json"):  # its shards may be in subfolders
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        files.update(folder / shard for shard in shards)
    return files


def source_digest(model: str) -> str:
    """A short hash of a model's full name, with absolute paths: folders of the same name have different hashes."""
    parts = (str(Path(part).resolve()) if part and Path(part).exists() else part for part in model.split(":"))
    return hashlib.sha256(":".join(parts).encode()).hexdigest()[:16]


def file_name(text: str) -> str:
    """The name of result files for a folder, Hub id or class."""
    parts = [part for part in re.split(r"[/\\]", text.rstrip("/\\")) if part]
    return re.sub(r"[^\w.@-]", "-", parts[-1] if parts else text).strip(".") or "model"
