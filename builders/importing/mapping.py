"""Imports files of tensors, one per candidate, by a mapping file that says what is where in them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from ...errors import NbenchError, one_line, reason_of
from ...shards.positions import parse_positions
from ...shards.schema import PositionInfo
from ..corruption.world import corrupt_prompts
from ..prompts.choose import read_prompts
from ..prompts.rows import Prompt
from .config import GenericConfig
from .noisyclip_layout import DEFAULT_PATTERN, image_path, scan
from .record import BadFileError, ImportReport, Recorded, import_source
from .scheduler_file import schedule
from .tensor_files import SUFFIXES, read_tree
from .trajectory import as_image, as_latent, numbers_of, png_of, steps_of

_EACH = "{position}"


@dataclass(frozen=True)
class FileMap:
    """What a mapping file says.

    Attributes:
        steps: T.
        files: glob of the files in the folder, which all have one suffix of `SUFFIXES`.
        pattern: regular expression for their names without suffix, with the groups prompt and candidate.
        latents: the entry with all latents, [K, ...]; or `NAME{position}`, one entry per position; or none, if the file
            is a tensor or a list of tensors.
        positions: those of the K latents: `all` (0..T), 0:50:10, a list, or the entry that holds them.
        timesteps, sigmas: of the steps: a list, or an entry.
        scheduler: gives both instead: a scheduler as `nbench import noisyclip-pt --scheduler` takes it.
        scaled: the latents are the denoiser's inputs, so the scheduler's input scale is undone.
        image: the end of an image's name beside the file, such as .png or _image.png; or the entry that holds it.
        seed: the entry with the seed.
    """

    steps: int
    files: str
    pattern: str = DEFAULT_PATTERN
    latents: str | None = None
    positions: str | list[int] = "all"
    timesteps: str | list[float] | None = None
    sigmas: str | list[float] | None = None
    scheduler: str | None = None
    scaled: bool = False
    image: str = ".png"
    seed: str | None = None

    def check(self) -> None:
        """Check what types do not.

        Raises:
            ValueError: entries that exclude each other, or a path that leads out of the folder.
        """
        if self.steps < 1:
            raise ValueError(f"steps {self.steps} is less than 1")
        glob = PurePath(self.files)
        if glob.is_absolute() or ".." in glob.parts or glob.suffix not in SUFFIXES:
            raise ValueError(f"files {self.files!r} is no glob in the folder that ends in one of {', '.join(SUFFIXES)}")
        if PurePath(self.image).name != self.image:
            raise ValueError(f"image {self.image!r} is no end of a file name, and no entry")
        if self.scheduler is not None and (self.timesteps is not None or self.sigmas is not None):
            raise ValueError("scheduler gives timesteps and sigmas: leave these out, or the scheduler")
        if self.scaled and self.scheduler is None:
            raise ValueError("scaled needs a scheduler, whose input scale is undone")


def read_map(path: Path) -> FileMap:
    """The mapping file at `path`.

    Raises:
        NbenchError: no such file, unknown or missing entries, or values that do not fit.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        # every value as text: YAML would read 20:30 as a number in base 60
        content = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise NbenchError(f"cannot read --map {path}: {reason_of(error)}") from None
    if not isinstance(content, dict):
        raise NbenchError(f"--map {path} is not a list of `name: value`")
    names = [field.name for field in fields(FileMap)]
    for key in content:
        if key not in names:
            near = get_close_matches(str(key), names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise NbenchError(f"--map {path} has {one_line(str(key))}: {hint}")
    try:
        mapping = TypeAdapter(FileMap).validate_python(content)
        mapping.check()
    except ValidationError as error:
        first = error.errors()[0]
        raise NbenchError(f"--map {path}: {'.'.join(map(str, first['loc']))}: {one_line(first['msg'])}") from None
    except ValueError as error:
        raise NbenchError(f"--map {path}: {error}") from None
    return mapping


def import_generic(config: GenericConfig, progress: bool = True) -> ImportReport:
    """Make a data set of files of tensors, one per candidate, or resume it, with one candidate in memory at a time.

    Raises:
        NbenchError: a folder, file or setting that the user must fix; missing files are reported before the long work.
    """
    return import_source(config, _Files(config), progress)


class _Files:
    """A folder of files of tensors; see `record.Source`."""

    name = "files"

    def __init__(self, config: GenericConfig) -> None:
        self._map = read_map(config.map)
        prompts = read_prompts(config.prompts)
        chosen = corrupt_prompts(prompts) if config.kind == "ncc" else prompts
        beside = self._map.image if self._map.image.endswith(".png") else None
        layout = scan(config.folder, self._map.pattern, chosen, self._map.files, beside)
        self.prompts: Sequence[Prompt] = layout.prompts
        self.n_candidates, self.content, self.unused = layout.n_candidates, layout.content, layout.unused
        self._files = layout.files
        self.scheduler: dict[str, Any] | None = None
        try:
            self.places: Sequence[PositionInfo] = self._places(self._tree(0))
        except (ValueError, BadFileError) as error:
            raise NbenchError(f"{self.path(0)} {error}: fix --map {config.map}") from None

    def path(self, row: int) -> Path:
        return self._files[row]

    def read(self, row: int) -> Recorded:
        path, tree = self.path(row), self._tree(row)
        try:
            by_position, pixels = self._latents(tree), None
            if self._map.image.endswith(".png"):
                png = image_path(path, self._map.image).read_bytes()
                with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                    image.load()
                    size = image.height, image.width
            else:
                pixels = as_image(_entry(tree, self._map.image))
                png, size = png_of(pixels), (pixels.shape[0], pixels.shape[1])
            scales = {k: self.places[k].input_scale if self._map.scaled else 1.0 for k in by_position}
            latents = {k: as_latent(each, size) for k, each in by_position.items()}
            latents = {k: each if scales[k] == 1 else each.float() / scales[k] for k, each in latents.items()}
            seed = 0 if self._map.seed is None else int(numbers_of(_entry(tree, self._map.seed))[0])
            if self._map.scheduler is None and tuple(self._places(tree)) != tuple(self.places):
                raise ValueError("states other timesteps or sigmas than the first candidate")
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadFileError(path, str(error)) from None
        return Recorded(latents, png, size, seed)

    def check(self, first: Recorded) -> None:
        """Names and images were checked when they were listed."""

    def _tree(self, row: int) -> Any:
        tree = read_tree(self.path(row))
        return tree if isinstance(tree, dict) else {"": tree}

    def _places(self, tree: dict[str, Any]) -> Sequence[PositionInfo]:
        steps = self._map.steps
        if self._map.scheduler is not None:
            self.scheduler, places = schedule(self._map.scheduler, steps)
            return places
        values = (self._map.timesteps, self._map.sigmas)
        stated = [_entry(tree, value) if isinstance(value, str) else value for value in values]
        return steps_of([0], steps, *stated).places

    def _latents(self, tree: dict[str, Any]) -> dict[int, torch.Tensor]:
        """The latents by position, as they are in the file."""
        name, steps = self._map.latents, self._map.steps
        if name is not None and _EACH in name:
            numbers = re.compile(re.escape(name).replace(re.escape(_EACH), r"(\d{1,6})"))
            found = {int(match[1]): tree[key] for key in tree if (match := numbers.fullmatch(key))}
            latents = dict(sorted(found.items()))
        else:
            stack = _entry(tree, name or "")
            entries = list(stack) if isinstance(stack, list | tuple | torch.Tensor) else [stack]
            if len(entries) == 1 and isinstance(stack, torch.Tensor) and stack.ndim > 3:
                entries = list(entries[0])  # of a batch of one
            held = self._positions(tree)
            if len(entries) != len(held):
                raise ValueError(f"holds {len(entries)} latents, and the map names {len(held)} positions")
            latents = dict(zip(held, entries, strict=True))
        if not latents or not all(isinstance(each, torch.Tensor) for each in latents.values()):
            raise ValueError(f"holds no tensors named {name}")
        steps_of(list(latents), steps, None, None)
        return latents

    def _positions(self, tree: dict[str, Any]) -> list[int]:
        positions, steps = self._map.positions, self._map.steps
        if isinstance(positions, list):
            return positions
        if positions in tree:
            return [int(each) for each in numbers_of(tree[positions])]
        if positions == "all":
            return list(range(steps + 1))
        try:
            return list(parse_positions(positions, steps))
        except NbenchError as error:
            raise ValueError(str(error)) from None


def _entry(tree: dict[str, Any], name: str) -> Any:
    if name not in tree:
        raise ValueError(f"has no entry {name!r}: it has {', '.join(map(repr, list(tree)[:8]))}")
    return tree[name]
