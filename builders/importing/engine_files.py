"""Imports answers of engines that record trajectories from the files that they were saved to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import NbenchError
from ...shards.schema import PositionInfo
from ..corruption.world import corrupt_prompts
from ..prompts.choose import read_prompts
from ..prompts.rows import Prompt
from .config import EngineConfig
from .record import BadFileError, ImportReport, Recorded, import_source
from .sglang import Answer, sglang_answers
from .tensor_files import SUFFIXES, read_tree
from .trajectory import Steps, as_image, as_latent, png_of
from .vllm_omni import vllm_omni_answers

ENGINES: Mapping[str, Callable[[Any, int | None], list[Answer]]] = {
    "sglang": sglang_answers,
    "vllm-omni": vllm_omni_answers,
}
"""What reads the answers of an engine: from the content of a file, and T or None."""


def import_engine(engine: str, config: EngineConfig, progress: bool = True) -> ImportReport:
    """Make a data set of saved answers of `engine`, or resume it, with one file in memory at a time.

    Answers to one prompt are its candidates, in the order of files and answers.

    Raises:
        NbenchError: a folder, file or setting that the user must fix; what the files lack is reported before the work.
    """
    return import_source(config, _Files(engine, config), progress)


class _Files:
    """A folder of saved answers; see `record.Source`."""

    scheduler: dict[str, Any] | None = None

    def __init__(self, engine: str, config: EngineConfig) -> None:
        self.name, self._parse, self._steps = engine, ENGINES[engine], config.steps
        paths = sorted(path for path in config.folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
        if not paths:
            raise NbenchError(f"no answers in {config.folder}: they are files of {', '.join(SUFFIXES)}")
        self._cached: tuple[Path, list[Answer]] | None = None
        rows, runs = dict[str, list[tuple[Path, int]]](), dict[Steps, Path]()
        seeds, total = set[tuple[str, int]](), hashlib.sha256()
        for path in paths:
            total.update(f"{path.relative_to(config.folder).as_posix()} {path.stat().st_size}\n".encode())
            for number, answer in enumerate(self._answers_or_refuse(path)):
                rows.setdefault(answer.prompt, []).append((path, number))
                runs.setdefault(answer.steps, path)
                if answer.seed and (answer.prompt, answer.seed) in seeds:
                    raise NbenchError(f"{path} has seed {answer.seed} of a prompt again: remove one of its files")
                seeds.add((answer.prompt, answer.seed))
        if len(runs) > 1:
            files = list(runs.values())
            raise NbenchError(f"{files[0]} and {files[1]} record other positions or schedules: import each kind alone")
        prompts = _prompts(config, rows)
        self.prompts: Sequence[Prompt] = corrupt_prompts(prompts) if config.kind == "ncc" else prompts
        counts = {len(rows[prompt.text]): prompt.id for prompt in self.prompts}
        if len(counts) > 1:
            (few, one), *_, (many, other) = sorted(counts.items())
            raise NbenchError(
                f"prompt {one} has {few} answers, prompt {other} {many}: all prompts need the same number of candidates"
            )
        self._rows = [place for prompt in self.prompts for place in rows[prompt.text]]
        self.n_candidates, self.unused = next(iter(counts)), 0
        self.content = total.hexdigest()
        self._steps_of_all = next(iter(runs))
        self.places: Sequence[PositionInfo] = self._steps_of_all.places

    def path(self, row: int) -> Path:
        return self._rows[row][0]

    def read(self, row: int) -> Recorded:
        path, number = self._rows[row]
        answer = self._answers(path)[number]
        try:
            png, size = _image(path, number, answer)
            latents = {k: as_latent(answer.latents[i], size) for i, k in enumerate(answer.steps.held)}
        except ValueError as error:
            raise BadFileError(path, str(error)) from None
        return Recorded(latents, png, size, answer.seed)

    def check(self, first: Recorded) -> None:
        """All files were read when they were listed."""

    def _answers(self, path: Path) -> list[Answer]:
        if self._cached is None or self._cached[0] != path:
            try:
                self._cached = path, self._parse(read_tree(path), self._steps)
            except ValueError as error:
                raise BadFileError(path, str(error)) from None
        return self._cached[1]

    def _answers_or_refuse(self, path: Path) -> list[Answer]:
        try:
            return self._answers(path)
        except BadFileError as bad:
            raise NbenchError(f"{bad}: save the answer again, or move the file away") from None


def _prompts(config: EngineConfig, rows: Mapping[str, object]) -> list[Prompt]:
    """The prompts of the answers in the order of the prompt file, or numbered in the order of the files."""
    if config.prompts is None:
        return [Prompt(str(number), text) for number, text in enumerate(rows)]
    by_text = {prompt.text: prompt for prompt in read_prompts(config.prompts)}
    if unknown := [text for text in rows if text not in by_text]:
        raise NbenchError(f"{config.prompts} lacks the prompt {unknown[0][:80]!r} of an answer: add it")
    return [prompt for text, prompt in by_text.items() if text in rows]


def _image(path: Path, number: int, answer: Answer) -> tuple[bytes, tuple[int, int]]:
    """The image of an answer as PNG, and its height and width: from the answer, or from a file beside it."""
    if answer.image is not None:
        pixels = as_image(answer.image)
        return png_of(pixels), (pixels.shape[0], pixels.shape[1])
    names = [path.with_name(f"{path.stem}_{number}.png"), *([path.with_suffix(".png")] if number == 0 else [])]
    for name in names:
        if name.is_file():
            png = name.read_bytes()
            try:
                with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                    image.load()
                    return png, (image.height, image.width)
            except Exception:  # Pillow's decoders raise many types
                raise ValueError(f"has a damaged image {name.name}") from None
    raise ValueError(f"has no image: the answer holds none, and there is no {names[0].name} beside it")
