"""Pipelines by name, folder or Hub id, with what a build needs to know of each."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..errors import NbenchError
from ..shards.schema import PreviewMap

WORLD_PIPELINE = Path(__file__).parents[1] / "shapes" / "weights" / "pipeline"
_SDXL_PREVIEW = PreviewMap(
    weight=tuple(
        tuple(value / 255 for value in row) for row in ((60, -60, 25, -70), (60, -5, 15, -50), (60, 10, -5, -35))
    ),  # type: ignore[arg-type]  # three rows, as a generator cannot say
    bias=(150 / 255, 140 / 255, 130 / 255),
)
_READ_BY_PIPELINES = {".json", ".safetensors", ".bin", ".txt", ".model"}


@dataclass(frozen=True)
class PipelineEntry:
    """A pipeline and its defaults. `source` is a folder or Hub id; `content` a hash of all that is in it.

    `guidance` None leaves the pipeline's own; `scheduler` names a diffusers class to use in place of the stock one.
    """

    name: str
    source: str
    content: str = ""
    guidance: float | None = None
    dtype: str = "float32"
    batch_size: int = 8
    scheduler: str | None = None
    call_kwargs: dict[str, Any] = field(default_factory=dict)
    preview: PreviewMap | None = None


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class _FolderEntry:
    """What a folder's nbench.json may say."""

    guidance: float | None = None
    call_kwargs: dict[str, Any] = field(default_factory=dict)
    preview: PreviewMap | None = None


ALIASES = {
    entry.name: entry
    for entry in (
        PipelineEntry("shapes", str(WORLD_PIPELINE), batch_size=120),
        PipelineEntry(
            "sdxl", "stabilityai/stable-diffusion-xl-base-1.0", guidance=5.0, dtype="float16", preview=_SDXL_PREVIEW
        ),
        # its stock scheduler, PNDM, calls the denoiser once more than it has steps
        PipelineEntry(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            guidance=7.5,
            dtype="float16",
            scheduler="EulerDiscreteScheduler",
        ),
    )
}


def resolve_pipeline(name: str) -> PipelineEntry:
    """The pipeline called `name`: an alias, a folder, or a Hub id, which is fetched.

    Raises:
        NbenchError: none of the three, or a folder that is no diffusers pipeline.
    """
    entry = ALIASES.get(name) or PipelineEntry(Path(name).name, name)
    folder = Path(entry.source)
    if folder.is_dir():
        return _from_folder(entry, folder)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", entry.source):
        near = get_close_matches(name, ALIASES, 1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(ALIASES)}, a folder or a Hub id"
        raise NbenchError(f"no pipeline {name!r}: it is neither a name nor a folder here; {hint}")
    folder = _fetch(entry.source)
    # the folder of a snapshot is named by its commit
    return replace(entry, name=name, source=str(folder), content=folder.name)


def scheduler_spec(entry: PipelineEntry) -> dict[str, Any]:
    """The scheduler's class and configuration as the pipeline's folder states them."""
    path = Path(entry.source) / "scheduler" / "scheduler_config.json"
    stated = json.loads(path.read_text()) if path.is_file() else {}
    name = entry.scheduler or stated.get("_class_name")
    return {"class": name, **{key: value for key, value in stated.items() if not key.startswith("_")}}


def load_pipeline(entry: PipelineEntry, dtype: str, device: str | None = None) -> Any:
    """The diffusers pipeline of a resolved entry, on `device` (None: the GPU where there is one), silent.

    Raises:
        NbenchError: diffusers cannot open it.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            entry.source, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError, AttributeError, ImportError) as error:
        reason = _first_line(error)
        raise NbenchError(f"diffusers cannot open pipeline {entry.name} ({reason}): check its files") from None
    if entry.scheduler:
        pipe.scheduler = getattr(diffusers, entry.scheduler).from_config(pipe.scheduler.config)
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None  # it blackens images, and a bench must show what was made
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _from_folder(entry: PipelineEntry, folder: Path) -> PipelineEntry:
    if not (folder / "model_index.json").is_file():
        raise NbenchError(f"{folder} is not a diffusers pipeline: it has no model_index.json")
    told = _FolderEntry()
    if (folder / "nbench.json").is_file():
        try:
            told = TypeAdapter(_FolderEntry).validate_json((folder / "nbench.json").read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise NbenchError(
                f"{folder / 'nbench.json'} is not understood ({place}: {first['msg']}): mend it"
            ) from None
    return replace(
        entry, content=_hash(folder), guidance=told.guidance, call_kwargs=told.call_kwargs, preview=told.preview
    )


def _hash(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _READ_BY_PIPELINES):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


def _fetch(hub_id: str) -> Path:
    import diffusers

    try:
        return Path(diffusers.DiffusionPipeline.download(hub_id))
    except Exception as error:  # the Hub's client raises a dozen unrelated types
        reason = _first_line(error)
        raise NbenchError(f"no pipeline {hub_id!r}: no such folder, and the Hub does not give it ({reason})") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
