"""Find and load pipelines by name, folder or Hub id."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..errors import NbenchError, reason_of
from ..shards.schema import PreviewMap
from .aliases import ALIASES, PipelineEntry
from .loading import applied, quantization
from .lora import load_loras
from .options import PipelineOptions, pipeline_class, with_options
from .packages import missing_package
from .quiet import quieten_diffusers
from .schedulers import swapped
from .single_file import check_single_file, configuration_of, open_single_file
from .sizes import check_sides, read_json
from .whole_parts import whole_parts

_TEXT_PARTS = ("text_encoder", "tokenizer")
_READ_BY_PIPELINES = {".json", ".safetensors", ".bin", ".txt", ".model"}


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class FolderEntry:
    """The content of a folder's nbench.json."""

    guidance: float | None = None
    call_kwargs: dict[str, Any] = field(default_factory=dict)
    preview: PreviewMap | None = None


def resolve_pipeline(
    name: str, options: PipelineOptions | None = None, parts: Sequence[str] | None = None
) -> PipelineEntry:
    """The pipeline `name`: an alias, a folder, or a Hub id, which is downloaded; with `options` applied.

    `parts` are patterns of the files to download, None for all that it needs to run.

    Raises:
        NbenchError: no such pipeline, a folder without a diffusers pipeline, or options that it does not accept.
    """
    options = options or PipelineOptions()
    return with_options(_find(name, options, parts), options)


def _find(name: str, options: PipelineOptions, parts: Sequence[str] | None) -> PipelineEntry:
    entry = ALIASES.get(name) or PipelineEntry(Path(name).name, name)
    folder = Path(entry.source)
    if folder.exists() and options.revision is not None:
        kind = "folder" if folder.is_dir() else "file"
        raise NbenchError(f"pipeline {name} is a {kind}, which has no revisions: leave --revision out")
    if options.config is not None and not folder.is_file():
        raise NbenchError(f"--pipeline-config is for single-file checkpoints, and {name} is none: leave it out")
    if folder.is_dir():
        return _from_folder(entry, folder)
    if folder.is_file():
        check_single_file(folder)
        configured = _from_folder(entry, configuration_of(folder, options.config))
        content = hashlib.sha256(f"{configured.content} {_file_hash(folder)}".encode()).hexdigest()
        return replace(configured, content=content, checkpoint=folder)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", entry.source):
        near = get_close_matches(name, ALIASES, 1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(ALIASES)}, a folder or a Hub id"
        raise NbenchError(f"no pipeline {name!r}: it is neither a name nor a folder here; {hint}")
    check_sides(name, {**entry.call_kwargs, **options.call_kwargs}, entry.side_multiple)  # before the download
    folder = _fetch(entry.source, options.revision, options.variant, parts)
    # the folder of a snapshot is named by its commit
    return replace(entry, name=name, source=str(folder), content=folder.name)


def scheduler_spec(entry: PipelineEntry) -> dict[str, Any]:
    """The scheduler's class and configuration from the pipeline's folder."""
    stated = read_json(Path(entry.source) / "scheduler" / "scheduler_config.json")
    name = entry.scheduler or stated.get("_class_name")
    return {"class": name, **{key: value for key, value in stated.items() if not key.startswith("_")}}


def load_pipeline(
    entry: PipelineEntry, dtype: str, device: str | None = None, options: PipelineOptions | None = None
) -> Any:
    """Load the diffusers pipeline of a resolved entry on `device` (None: the GPU if there is one), silently.

    Only the speed and memory options of `options` apply here; the others are already part of the entry.

    Raises:
        NbenchError: diffusers cannot open it, an option is not available, or a LoRA does not fit.
    """
    import torch

    quieten_diffusers()
    import diffusers

    index = json.loads((Path(entry.source) / "model_index.json").read_bytes())
    kind = pipeline_class(index)
    if kind is None:
        raise NbenchError(
            f"pipeline {entry.name} is of a class that diffusers {diffusers.__version__} lacks "
            f"({index.get('_class_name')}): update diffusers; code that comes with a pipeline is not run"
        )
    parts: dict[str, Any] = _left_out(entry, index, kind)
    if "safety_checker" in index:
        # it blackens images, and a bench must show what was made
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if entry.vae_dtype and "vae" not in index:
        raise NbenchError(f"pipeline {entry.name} has no VAE: leave --vae-dtype out")
    try:
        with whole_parts():
            if entry.checkpoint:
                pipe = open_single_file(entry, kind, index, dtype, parts)
            else:
                pipe = _open_folder(entry, index, dtype, parts)
    except Exception as error:  # diffusers and what it loads with raise a dozen unrelated types
        if package := missing_package(error):
            raise NbenchError(f"pipeline {entry.name} needs the package {package}: pip install {package}") from error
        reason = reason_of(error)
        raise NbenchError(f"diffusers cannot open pipeline {entry.name} ({reason}): check its files") from error
    if entry.scheduler:
        pipe.scheduler = swapped(pipe, entry.scheduler)
    if entry.vae_dtype:
        from .vae import take_any_dtype

        take_any_dtype(pipe.vae)
    load_loras(pipe, entry.loras)
    pipe.set_progress_bar_config(disable=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return applied(pipe, options or PipelineOptions(), entry.attention, device)


def _open_folder(entry: PipelineEntry, index: Mapping[str, Any], dtype: str, parts: Mapping[str, Any]) -> Any:
    import diffusers
    import torch

    dtypes = {"default": getattr(torch, dtype), **({"vae": getattr(torch, entry.vae_dtype)} if entry.vae_dtype else {})}
    given: dict[str, Any] = {"dtype": dtypes if entry.vae_dtype else dtypes["default"], **parts}
    if entry.variant:
        given["variant"] = entry.variant
    if entry.quantize:
        given["quantization_config"] = quantization(entry.quantize, index, dtype)
    return diffusers.DiffusionPipeline.from_pretrained(entry.source, local_files_only=True, **given)


def _left_out(entry: PipelineEntry, index: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Parts that a folder was saved without on purpose, as SD3's third text encoder: the pipeline does without them.

    Raises:
        NbenchError: the folder of a part that model_index.json names is missing.
    """
    left_out: dict[str, Any] = {}
    for name, part in index.items():
        if not isinstance(part, list) or name == "safety_checker":
            continue
        if part[0] is None:
            left_out[name] = None
        elif not (Path(entry.source) / name).is_dir():
            without = f', or write "{name}": [null, null] there to do without' if name.startswith(_TEXT_PARTS) else ""
            lacks = f"pipeline {entry.name} lacks the folder {name}, which its model_index.json names"
            raise NbenchError(f"{lacks}: add it{without}")
    required = [name for name, one in inspect.signature(kind).parameters.items() if one.default is one.empty]
    texts = [name for name in required if name.startswith(_TEXT_PARTS) and name not in index]
    return left_out | dict.fromkeys(texts)


def folder_entry(folder: Path) -> FolderEntry:
    """Read the nbench.json of a pipeline's folder; an empty entry if there is none.

    Raises:
        NbenchError: its content is invalid.
    """
    path = folder / "nbench.json"
    if not path.is_file():
        return FolderEntry()
    try:
        return TypeAdapter(FolderEntry).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise NbenchError(f"{path} is not understood ({place}: {first['msg']}): fix it") from None


def _from_folder(entry: PipelineEntry, folder: Path) -> PipelineEntry:
    modular = folder / "modular_model_index.json"
    if modular.is_file() and not (folder / "model_index.json").is_file():
        kind = str(read_json(modular).get("_class_name", "a pipeline")).replace("Modular", "")
        raise NbenchError(
            f"{folder} is of Modular Diffusers, where noise, guidance and decoding are blocks, which nbench does not "
            f"record: use a folder with the model_index.json of {kind}"
        )
    if not (folder / "model_index.json").is_file():
        raise NbenchError(f"{folder} is not a diffusers pipeline: it has no model_index.json")
    defaults = folder_entry(folder)
    return replace(
        entry,
        source=str(folder),
        content=_hash(folder),
        guidance=defaults.guidance,
        call_kwargs=defaults.call_kwargs,
        preview=defaults.preview,
    )


def _hash(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _READ_BY_PIPELINES):
        total.update(f"{path.relative_to(folder).as_posix()} {_file_hash(path)}\n".encode())
    return total.hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(hub_id: str, revision: str | None, variant: str | None, parts: Sequence[str] | None) -> Path:
    import diffusers
    from huggingface_hub import snapshot_download

    try:
        if parts is not None:
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(parts)))
        return Path(diffusers.DiffusionPipeline.download(hub_id, revision=revision, variant=variant))
    except Exception as error:  # the Hub's client raises a dozen unrelated types
        reason, at = reason_of(error), f" at {revision}" if revision else ""
        raise NbenchError(
            f"no pipeline {hub_id!r}{at}: no such folder, and it cannot be downloaded from the Hub ({reason})"
        ) from None
