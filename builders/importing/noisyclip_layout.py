"""The layout of the trajectories of NoisyCLIP's authors: which files there are, and what a candidate's must hold."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from ...errors import NbenchError, reason_of
from ..prompts.choose import Prompt
from .record import BadFileError

DEFAULT_PATTERN = r"(?:.*?/)??[A-Za-z_-]*(?P<prompt>\d+)(?:[_/-][A-Za-z_-]*(?P<candidate>\d+))?"
"""Matches `12_3`, `prompt_12_seed_3`, `00012-3`, `12/3`, `latents/12_3`; `12` is the only candidate of its prompt."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Form = tuple[int, tuple[int, ...], tuple[int, int]]
"""What all candidates must share: the number of latents, their shape [C, H, W], and the image's height and width."""


@dataclass(frozen=True)
class Layout:
    """All candidates, prompt by prompt in the order of the prompt file, N each.

    `files` are their .pt files, the PNG of each beside it; `content` is a hash of the names and sizes of both and of
    their meaning; `unused` prompts have no files.
    """

    prompts: tuple[Prompt, ...]
    n_candidates: int
    files: tuple[Path, ...]
    content: str
    unused: int


@dataclass(frozen=True)
class Candidate:
    """Content of the files of a candidate: the latents [C, H, W] of positions 0, 1, ... as stored, and the image."""

    latents: list[torch.Tensor]
    png: bytes
    image_size: tuple[int, int]

    @property
    def form(self) -> Form:
        """The form, which all candidates must share."""
        return len(self.latents), tuple(self.latents[0].shape), self.image_size


def scan(
    folder: Path, pattern: str, prompts: Sequence[Prompt], files_are: str = "*.pt", image: str | None = ".png"
) -> Layout:
    """List the candidates by file names alone, and check that none is missing.

    Args:
        pattern: matches the whole path of each .pt file in `folder`, without .pt; its group `prompt` is a prompt's id,
            leading zeros aside, `candidate` a number. A prompt's candidates become 0..N-1 in the order of their
            numbers.
        files_are: glob of the files; image: what the name of an image has in the place of their suffix, None if there
            are no images beside them.

    Raises:
        NbenchError: no files, a name that does not match, two files of one candidate, or a missing prompt, candidate or
            image.
    """
    files_of = _find(folder, pattern, files_are)
    prompt_of: dict[str, Prompt] = {}
    for prompt in prompts:
        if (other := prompt_of.setdefault(_key(prompt.id), prompt)) is not prompt:
            raise NbenchError(f"prompt ids {other.id!r} and {prompt.id!r} differ only by leading zeros: rename one")
    unknown = [next(iter(files_of[key].values())) for key in files_of if key not in prompt_of]
    if unknown:
        raise NbenchError(f"{_first(unknown)}: the prompt file lacks its prompt; add it, or fix --pattern")
    wanted = [key for key in prompt_of if key in files_of]
    numbers = sorted({number for candidates in files_of.values() for number in candidates})
    gaps = [
        f"candidate {number} of prompt {key}" for key in wanted for number in numbers if number not in files_of[key]
    ]
    if gaps:
        raise NbenchError(f"{folder} has no {_first(gaps)}, which other prompts have: all need the same candidates")
    files = tuple(files_of[key][number] for key in wanted for number in numbers)
    images = [] if image is None else [image_path(path, image) for path in files]
    if missing := [path for path in images if not path.is_file()]:
        raise NbenchError(f"no image {_first(missing)}: every {files[0].suffix} file needs a PNG of its name beside it")
    total = hashlib.sha256()
    for row, path in enumerate(files):
        sizes = path.stat().st_size, images[row].stat().st_size if images else 0
        named = f"{wanted[row // len(numbers)]}/{row % len(numbers)} {path.relative_to(folder).as_posix()}"
        total.update(f"{named} {sizes[0]} {sizes[1]}\n".encode())
    chosen = tuple(prompt_of[key] for key in wanted)
    return Layout(chosen, len(numbers), files, total.hexdigest(), len(prompt_of) - len(chosen))


def image_path(path: Path, suffix: str = ".png") -> Path:
    """The path of the image that belongs to a file."""
    return path.with_name(path.stem + suffix)


def read_candidate(path: Path, steps: int) -> Candidate:
    """The candidate of a .pt file; nothing in it is executed.

    Raises:
        BadFileError: the file does not hold `steps` or `steps` + 1 doubled latents, or the image is damaged.
        NbenchError: the files cannot be read from disk.
    """
    try:
        data, png = path.read_bytes(), image_path(path).read_bytes()
    except OSError as error:
        raise NbenchError(f"cannot read {error.filename or path} ({reason_of(error)}): check the disk") from None
    latents = _latents(path, data, steps)
    with _opened(image_path(path), io.BytesIO(png)) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise BadFileError(image_path(path), f"cannot be decoded ({error})") from None
        return Candidate(latents, png, (image.height, image.width))


def check_form(path: Path, form: Form, wanted: Form) -> None:
    """Check that the candidate of a .pt file has the form of the others.

    Raises:
        BadFileError: it has another form.
    """
    if form[:2] != wanted[:2]:
        (count, shape, _), (wanted_count, wanted_shape, _) = form, wanted
        other = f"the first candidate {wanted_count} of {list(wanted_shape)}"
        raise BadFileError(path, f"holds {count} latents of {list(shape)}, {other}")
    _check_size(image_path(path), form[2], wanted[2])


def check_images(layout: Layout, wanted: tuple[int, int]) -> None:
    """Check by their headers that all images have the height and width `wanted`.

    Raises:
        BadFileError: an image is not a PNG, or has another size.
        NbenchError: a file cannot be read from disk.
    """
    for path in map(image_path, layout.files):
        try:
            with path.open("rb") as file, _opened(path, file) as image:
                size = image.height, image.width
        except OSError as error:
            raise NbenchError(f"cannot read {path} ({reason_of(error)}): check the disk") from None
        _check_size(path, size, wanted)


def _check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    if size != wanted:
        raise BadFileError(path, f"is {size[1]}x{size[0]}, the first candidate's image {wanted[1]}x{wanted[0]}")


def _find(folder: Path, pattern: str, files_are: str) -> dict[str, dict[int, Path]]:
    """The files by prompt and candidate number."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise NbenchError(f"--pattern {pattern!r} is not a regular expression: {reason_of(error)}") from None
    if "prompt" not in expression.groupindex:
        raise NbenchError(f"--pattern {pattern!r} has no group (?P<prompt>...): name the prompt's id so")
    files: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.rglob(files_are)):
        match = expression.fullmatch(path.relative_to(folder).with_suffix("").as_posix())
        named = match.groupdict() if match else {}
        number = named.get("candidate") or "0"
        if not named.get("prompt") or not number.isdecimal():
            raise NbenchError(
                f"{path} does not match --pattern {pattern!r}: give another pattern, or move the file away"
            )
        candidates = files.setdefault(_key(named["prompt"]), {})
        if (other := candidates.setdefault(int(number), path)) is not path:
            raise NbenchError(f"{other} and {path} are the same candidate by --pattern {pattern!r}: fix it")
    if not files:
        raise NbenchError(f"no {files_are.removeprefix('*')} files in {folder}: give the folder that holds them")
    return files


def _key(prompt_id: str) -> str:
    return prompt_id.lstrip("0") or "0" if prompt_id.isdecimal() else prompt_id


def _first(missing: Sequence[object]) -> str:
    return f"{missing[0]}" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")


def _load(path: Path, data: bytes) -> object:
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise BadFileError(path, "holds something else than tensors, or is damaged, and was not unpickled") from None
    except MemoryError:
        raise
    except Exception:  # a damaged archive raises whatever its bytes lead to
        raise BadFileError(path, "is damaged or cut short") from None


def _latents(path: Path, data: bytes, steps: int) -> list[torch.Tensor]:
    """One half of each stored tensor [2, C, H, W]; both halves are equal."""
    loaded = _load(path, data)
    if not isinstance(loaded, list) or not all(isinstance(each, torch.Tensor) for each in loaded):
        raise BadFileError(path, f"holds a {type(loaded).__name__}, not a list of tensors")
    if len(loaded) not in (steps, steps + 1):
        raise BadFileError(path, f"holds {len(loaded)} tensors, not the {steps} or {steps + 1} of a {steps}-step run")
    kinds = {(tuple(each.shape), each.dtype, each.layout) for each in loaded}
    if len(kinds) > 1:
        raise BadFileError(path, "holds tensors of different shapes or types")
    shape, dtype, layout = kinds.pop()
    if len(shape) != 4 or shape[0] != 2 or 0 in shape or dtype not in _FLOATS or layout != torch.strided:
        raise BadFileError(path, f"holds {dtype} tensors {list(shape)}, not floating-point ones [2, C, H, W]")
    # strides of 0 let a small file stand for more memory than there is
    if sum(each[0].nbytes for each in loaded) > len(data):
        raise BadFileError(path, "claims more numbers than it holds")
    for position, each in enumerate(loaded):
        if not torch.allclose(each[0], each[1], rtol=0, atol=0, equal_nan=True):
            raise BadFileError(path, f"holds two different latents at {position}, not one doubled for guidance")
    return [each[0] for each in loaded]


def _opened(path: Path, file: io.BufferedReader | io.BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=["PNG"])
    except (SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        raise BadFileError(path, "is no PNG") from None
