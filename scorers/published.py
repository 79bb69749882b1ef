"""Models in their authors' own layouts: folders, tensors (no pickle is run), and fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import NbenchError, reason_of
from .weights import folder_fingerprint

_PICKLES = (".pt", ".ckpt", ".pth", ".bin")
_DOWNLOADED = ("*.json", "*.txt", "*.model", "*.safetensors", "*.pt", "*.ckpt")


def published_folder(source: str | Path, kind: str, *needed: str) -> Path:
    """A folder which has the files or folders `needed`: `source` itself, or the snapshot of OWNER/NAME[/FOLDER].

    Raises:
        NbenchError: there is none, here or on the Hub, or it lacks one of them.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        owner, _, rest = str(source).partition("/")
        name, _, inside = rest.partition("/")
        if not name:
            raise NbenchError(f"no {kind} at {source}: it is neither a folder nor a Hub id (OWNER/NAME)")
        from huggingface_hub import snapshot_download

        patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in _DOWNLOADED]
        try:
            folder = Path(snapshot_download(f"{owner}/{name}", allow_patterns=patterns)) / inside
        except Exception as error:  # the Hub client raises many unrelated types
            raise NbenchError(
                f"no {kind} at {source}: not a folder, and not reachable on the Hub ({reason_of(error)})"
            ) from None
    for name in needed:
        if not (folder / name).exists():
            raise NbenchError(f"{folder} lacks {name}: name the folder of {kind} as its authors publish it")
    return folder


def tensor_file(folder: Path, stem: str) -> Path:
    """The file of tensors in a folder whose name without ending matches `stem`; safetensors go first.

    Raises:
        NbenchError: there is none, or several.
    """
    for suffixes in ((".safetensors",), _PICKLES):
        found = sorted(path for path in folder.glob(f"{stem}.*") if path.suffix in suffixes)
        if len(found) > 1:
            raise NbenchError(f"{folder} has {' and '.join(path.name for path in found)}: keep one of them there")
        if found:
            return found[0]
    raise NbenchError(f"{folder} lacks {stem}.safetensors, and {stem}.pt or .ckpt in its place")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by their full names; of a pickle only tensors and numbers are read, and no code is run.

    Raises:
        NbenchError: the file is damaged, or a pickle of more than that.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types
        raise NbenchError(
            f"{path} is damaged, or holds more than tensors ({reason_of(error)}), and no pickle is run: convert it to "
            "safetensors as docs/scorers.md says"
        ) from None
    return dict(_flat(content))


def files_fingerprint(paths: Sequence[Path], *parts: str) -> str:
    """Hash of files, of the files of folders that determine a model's output, and of `parts`."""
    hashes = [folder_fingerprint(path) if path.is_dir() else _file_hash(path) for path in paths]
    return hashlib.sha256(repr((*parts, *hashes)).encode()).hexdigest()[:32]


def load_whole(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], origin: Path) -> None:
    """Load the tensors of a module.

    Raises:
        NbenchError: some are missing, unknown, or of another shape.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise NbenchError(f"{origin} does not fit this model ({reason_of(error)}): get the published file") from None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of nested dictionaries by their joined names; numbers as tensors."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(content, torch.Tensor):
        yield prefix, content
    elif isinstance(content, int | float):
        yield prefix, torch.tensor(float(content))


def _numpy_numbers() -> list[Any]:
    """What pickles of numpy's numbers name, which training loops leave in their checkpoints: it runs no code."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]
