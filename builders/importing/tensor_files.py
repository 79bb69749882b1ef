"""Reads tensors that other programs saved, without unpickling or running anything in their files."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import NbenchError, reason_of
from .record import BadFileError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SUFFIXES = (".msgpack", ".json", ".pt", ".pth", ".npz", ".safetensors")
_DEPTH = 32


def read_tree(path: Path) -> Any:
    """The content of a file: lists and dictionaries of tensors, numbers and texts.

    .pt holds tensors in plain containers; .npz and .safetensors tensors by name; .json and .msgpack hold them as SGLang
    sends them: safetensors of one tensor `t`, as bytes or in base64, with their shape.

    Raises:
        BadFileError: the file is damaged, or holds anything else, such as objects of classes.
        NbenchError: it cannot be read from disk.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NbenchError(f"cannot read {path} ({reason_of(error)}): check the disk") from None
    try:
        match path.suffix:
            case ".pt" | ".pth":
                tree = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
                check_size(path, tree, len(data))
                return tree
            case ".npz":
                with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                    return {name: _tensor(arrays[name]) for name in arrays.files}
            case ".safetensors":
                return _safetensors(data)
            case ".json":
                return decoded(json.loads(data))
            case _:
                return decoded(unpacked(data))
    except pickle.UnpicklingError:
        raise BadFileError(path, "holds something else than tensors, or is damaged, and was not unpickled") from None
    except (MemoryError, NbenchError, BadFileError):
        raise
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise BadFileError(path, f"is damaged or cut short ({reason_of(error)})") from None


def unpacked(data: bytes) -> Any:
    """The content of MessagePack.

    Raises:
        NbenchError: the package for it is not installed.
        ValueError: other bytes.
    """
    try:
        import msgpack  # type: ignore[import-untyped]
    except ImportError:
        raise NbenchError("MessagePack needs the package msgpack: pip install 'nbench[engines]'") from None
    return msgpack.unpackb(data, raw=False, strict_map_key=True)


def decoded(tree: Any, depth: int = _DEPTH) -> Any:
    """An answer of SGLang with its tensors in the place of what they were sent as.

    Raises:
        ValueError: a tensor that is not what it states, or an answer nested too deeply.
    """
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(tree, dict):
        if tree.get("__tensor__") is not True:
            return {key: decoded(value, depth - 1) for key, value in tree.items()}
        data = tree.get("data")
        tensor = _safetensors(base64.b64decode(data, validate=True) if isinstance(data, str) else data)["t"]
        if list(tensor.shape) != list(tree.get("shape", tensor.shape)):
            raise ValueError(f"a tensor of {list(tensor.shape)} is stated as {tree['shape']}")
        return tensor
    return [decoded(value, depth - 1) for value in tree] if isinstance(tree, list) else tree


def check_size(path: Path, tree: Any, size: int) -> None:
    """Refuse tensors that claim more numbers than their file of `size` bytes holds: strides of 0 would allow that.

    Raises:
        BadFileError: one does.
    """
    if isinstance(tree, torch.Tensor):
        if tree.layout != torch.strided or tree.nbytes > size:
            raise BadFileError(path, "claims more numbers than it holds")
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            check_size(path, value, size)


def _safetensors(data: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(data)


def _tensor(array: np.ndarray) -> Any:
    """A tensor; a text or number where the array holds one."""
    if array.dtype.kind in "US" and array.ndim == 0:
        return str(array)
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
