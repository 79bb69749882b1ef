"""LoRA adapters of a pipeline: their weight files, found and hashed before the work, and loaded as diffusers does."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NbenchError, failure_of, one_line, reason_of
from .replaced_method import replace_method

_USUAL_FILE = "pytorch_lora_weights.safetensors"
_REFUSED = {"dora_scale": "DoRA", "hada_w": "LoHa", ".oft_": "OFT"}
"""What tensor names of adapters that diffusers leaves out, or applies only in part, contain."""


@dataclass(frozen=True)
class Lora:
    """A LoRA and its weight. `content` is the SHA-256 of its file; the name of a local one has no path."""

    name: str
    weight: float
    file: Path
    content: str


def parse_lora(text: str) -> tuple[str, float]:
    """The source and weight of SOURCE[:WEIGHT].

    Raises:
        NbenchError: the weight is not a finite number.

    >>> parse_lora("styles/ink:0.8"), parse_lora("styles/ink")
    (('styles/ink', 0.8), ('styles/ink', 1.0))
    """
    source, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not source or not math.isfinite(weight):
        raise NbenchError(f"--lora {text}: the weight {number!r} is not a number; write FOLDER:0.8")
    return source, weight


def find_loras(texts: Iterable[str]) -> tuple[Lora, ...]:
    """The LoRAs of `texts`, each a safetensors file, a folder with one, or a Hub id, which is downloaded.

    Raises:
        NbenchError: there is none, or its tensors are not those of a LoRA.
    """
    return tuple(_find(*parse_lora(text)) for text in texts)


def check_loras(kind: Any, texts: Sequence[str]) -> None:
    """Refuse LoRAs for a pipeline class that takes none, or without the package that they need.

    Raises:
        NbenchError: it does not take them.
    """
    if not texts:
        return
    if kind is not None and not hasattr(kind, "load_lora_weights"):
        raise NbenchError(f"{kind.__name__} takes no LoRA: leave --lora out")
    if importlib.util.find_spec("peft") is None:
        raise NbenchError("--lora needs the package peft: pip install 'nbench[lora]'")


def load_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Put the adapters on the parts of `pipe` with their weights, as `load_lora_weights` and `set_adapters` do.

    Raises:
        NbenchError: one does not fit the pipeline, in whole or in part.
    """
    names = [f"lora_{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        converted: list[dict[str, Any]] = []
        restore = replace_method(pipe, "lora_state_dict", _noting(pipe.lora_state_dict, converted))
        try:
            # peft warns of every adapter beyond the first
            with warnings.catch_warnings(action="ignore"), _left_out() as dropped:
                pipe.load_lora_weights(
                    str(lora.file.parent),
                    weight_name=lora.file.name,
                    adapter_name=name,
                    local_files_only=True,
                    use_safetensors=True,
                )
        except Exception as error:  # diffusers, peft and torch raise a dozen unrelated types
            raise _unfit(lora, pipe, failure_of(error)) from error
        finally:
            restore()
        if dropped:
            raise _unfit(lora, pipe, one_line(dropped[0], 200))
        stored = [key for state in converted for key in state if not key.endswith("alpha")]
        placed = _tensors_of(pipe, name)
        # diffusers only warns of tensors that it has no layer for
        if len(placed) != len(stored) or any(tensor.is_meta for tensor in placed):
            raise _unfit(lora, pipe, f"{len(placed)} of its {len(stored)} tensors fit a layer")
    if loras:
        pipe.set_adapters(names, [lora.weight for lora in loras])


@contextlib.contextmanager
def _left_out() -> Iterator[list[str]]:
    """While entered, lists which tensors diffusers says it leaves out when it converts other layouts."""
    logger, messages = logging.getLogger("diffusers.loaders.lora_conversion_utils"), list[str]()

    class Listing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno >= logging.WARNING or "unsupported" in message:
                messages.append(message)

    handler, before = Listing(logging.INFO), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _noting(lora_state_dict: Any, converted: list[dict[str, Any]]) -> Any:
    def noted(*args: Any, **kwargs: Any) -> Any:
        result = lora_state_dict(*args, **kwargs)
        converted.append(dict(result[0] if isinstance(result, tuple) else result))
        return result

    return noted


def _tensors_of(pipe: Any, adapter: str) -> list[Any]:
    import torch

    models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return [tensor for model in models for path, tensor in model.named_parameters() if adapter in path.split(".")]


def _unfit(lora: Lora, pipe: Any, reason: str) -> NbenchError:
    return NbenchError(
        f"LoRA {lora.name} does not fit this {type(pipe).__name__} ({reason}): use one that was trained for it"
    )


def _find(source: str, weight: float) -> Lora:
    path = Path(source)
    if path.is_dir():
        file = _only_file(path)
    elif path.is_file():
        file = path
    else:
        file = _fetched(source)
    if file.suffix != ".safetensors":
        raise NbenchError(f"LoRA {source} is not a safetensors file, and others are not opened: convert it")
    _check_tensors(source, file)
    with file.open("rb") as data:
        content = hashlib.file_digest(data, "sha256").hexdigest()
    return Lora(path.name if path.exists() else source, weight, file, content)


def _only_file(folder: Path, source: str | None = None) -> Path:
    """The LoRA file of a folder: the one that diffusers writes, else the only one.

    Raises:
        NbenchError: it has none, or several.
    """
    if (folder / "adapter_config.json").is_file():
        raise NbenchError(
            f"LoRA {source or folder} was saved by PEFT, whose adapter_config.json diffusers does not read: "
            "save it with save_lora_weights of its pipeline"
        )
    files = sorted(folder.glob("*.safetensors"))
    usual = folder / _USUAL_FILE
    if usual in files or len(files) == 1:
        return usual if usual in files else files[0]
    what = "has several safetensors files, name one" if files else "has no safetensors file, and others are not opened"
    names = f" ({', '.join(file.name for file in files[:5])})" if files else ""
    raise NbenchError(f"LoRA {source or folder} {what}{names}")


def _fetched(source: str) -> Path:
    """The LoRA file of a Hub id ORG/NAME, or of a file in it, ORG/NAME/FILE.safetensors."""
    from huggingface_hub import snapshot_download

    organisation, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", f"{organisation}/{name}"):
        raise NbenchError(f"no LoRA {source!r}: it is no folder, no file and no Hub id")
    try:
        patterns = [file or "*.safetensors", "adapter_config.json"]
        folder = snapshot_download(
            f"{organisation}/{name}", allow_patterns=patterns, ignore_patterns=None if file else "*/*"
        )
    except Exception as error:  # the Hub's client raises a dozen unrelated types
        raise NbenchError(
            f"no LoRA {source!r}: no such folder or file, and it cannot be downloaded from the Hub ({reason_of(error)})"
        ) from None
    found = Path(folder) / file
    if file and not found.is_file():
        raise NbenchError(f"no LoRA {source!r}: {organisation}/{name} has no file {file}")
    return found if file else _only_file(Path(folder), source)


def _check_tensors(source: str, file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise NbenchError(f"LoRA {source} cannot be read ({reason_of(error)}): get the file again") from None
    kind = next((kind for part, kind in _REFUSED.items() if any(part in name for name in names)), None)
    if kind is not None:
        raise NbenchError(f"{source} is a {kind}, which diffusers does not apply as it was trained: use a LoRA")
    if not any("lora" in name or "lokr_" in name for name in names):
        raise NbenchError(f"{file} holds no LoRA: none of its {len(names)} tensors is named so")
