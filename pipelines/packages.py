"""The package whose absence an exception of diffusers or transformers is about."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

_SPELLINGS = {
    "SentencePiece": "sentencepiece",
    "google": "protobuf",
    "google.protobuf": "protobuf",
    "bs4": "beautifulsoup4",
    "Beautiful Soup": "beautifulsoup4",
    "OpenCV": "opencv-python",
    "cv2": "opencv-python",
    "Torchvision": "torchvision",
    "PyAv": "av",
    "PIL": "pillow",
    "PEFT backend": "peft",
    "Accelerate": "accelerate",
    "yaml": "pyyaml",
}
"""Names in messages, and modules, that differ from the package to install."""
_PATTERNS = (
    r"pip install (?:-U |--upgrade )?['\"]?([A-Za-z][\w.-]*[\w])",
    r"requires (?:the )?[`']?([A-Za-z][\w. -]*?)[`']? (?:library|package)",
    r"[Nn]eed to have ([a-z][\w-]*) ",
    r"(PEFT backend) is required",
    r"requires ([a-z][\w-]*) ?>=",
)


_OPTIONAL = ("ftfy", "bs4", "sentencepiece", "torchvision", "cv2", "scipy", "xformers")
"""Modules that are imported only where they are installed, and missed by their names."""


def missing_package(error: BaseException) -> str | None:
    """The package to install, if `error`, or what it was raised from, says that one is missing.

    >>> missing_package(ImportError("T5 requires the SentencePiece library but it was not found"))
    'sentencepiece'
    >>> missing_package(ValueError("sizes differ")) is None
    True
    """
    name = _missing(error)
    if name == "tiktoken":  # transformers reads a SentencePiece model as one of tiktoken's where it cannot otherwise
        absent = (_package(module) for module in ("sentencepiece", "google.protobuf") if not _is_installed(module))
        return next(absent, name)
    return name


def _missing(error: BaseException) -> str | None:
    for each in _chain(error):
        if isinstance(each, ModuleNotFoundError) and each.name:
            return _package(each.name.split(".")[0])
        if isinstance(each, ImportError) and (name := _named_in(str(each))):
            return name
        if isinstance(each, NameError) and each.name in _OPTIONAL and not _is_installed(each.name):
            return _package(each.name)
        if (name := _named_in(str(each))) and not _is_installed(name):
            return name
    return None


def _named_in(text: str) -> str | None:
    found = (re.search(pattern, " ".join(text.split())) for pattern in _PATTERNS)
    return next((_package(match[1]) for match in found if match), None)


def _package(name: str) -> str:
    return _SPELLINGS.get(name, name)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name.replace("-", "_")) is not None
    except (ImportError, ValueError):
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
