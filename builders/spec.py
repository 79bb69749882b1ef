"""The spec of a data set, which is all that decides its content, and the pipeline that made it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import NbenchError
from ..pipelines.aliases import ALIASES, PipelineEntry
from ..pipelines.find import resolve_pipeline, scheduler_spec
from ..pipelines.lora import Lora, find_loras
from ..pipelines.options import PipelineOptions
from ..shards.fingerprint import fingerprint
from ..shards.schema import DatasetInfo, PositionInfo, PreviewMap
from ..shards.signals import DEFAULT_SIGNALS
from .config import KINDS, BuildConfig
from .prompts.rows import Prompt

SHARD_BYTES, SHARD_ROWS = 256 * 2**20, 600
"""Largest shard by default, so that redoing one is cheap."""


def build_spec(
    config: BuildConfig,
    entry: PipelineEntry,
    prompts: Sequence[Prompt],
    source: str = "shapes",
    scheduler: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that decides the output of a build, as plain JSON: no paths, devices or batch size.

    scheduler: its class and configuration; None reads them from the pipeline's folder.
    """
    parts = {name: getattr(entry, name) for name in ("quantize", "attention", "vae_dtype", "variant")}
    return {
        "kind": config.kind,
        "pipeline": {"name": entry.name, "content": entry.content},
        "scheduler": scheduler_spec(entry) if scheduler is None else dict(scheduler),
        "steps": config.n_steps,
        "guidance": entry.guidance if config.options.guidance is None else config.options.guidance,
        "call_kwargs": entry.call_kwargs,
        "dtype": config.dtype or entry.dtype,
        "seed": config.seed,
        "prompts": {"source": source, "count": len(prompts), "sha256": prompts_digest(prompts)},
        "candidates": config.n_candidates,
        "positions": list(config.stored),
        "rows_per_shard": config.rows_per_shard,
        "format": config.format,
        "latent_dtype": config.latent_dtype,
        # only where set: a default adds nothing to the fingerprint
        **{name: value for name, value in parts.items() if value is not None},
        **({"loras": [_lora_spec(lora) for lora in entry.loras]} if entry.loras else {}),
        **({} if config.int8_encoding == "plain" else {"int8_encoding": config.int8_encoding}),
        **({} if config.signals == DEFAULT_SIGNALS else {"signals": list(config.signals)}),
    }


def _lora_spec(lora: Lora) -> dict[str, Any]:
    return {"weight": lora.weight, "name": lora.name, "content": lora.content}


def empty_dataset(
    spec: dict[str, Any],
    latent_shape: tuple[int, int, int],
    image_size: tuple[int, int],
    positions: Iterable[PositionInfo],
    preview: PreviewMap | None = None,
    signals: tuple[str, ...] = DEFAULT_SIGNALS,
) -> DatasetInfo:
    """The record of a data set with `spec` and no shards yet; one that is only planned has no pipeline in its spec."""
    kind, candidates, prompts = KINDS[spec["kind"]], spec["candidates"], spec["prompts"]["count"]
    info = DatasetInfo(
        format_version=1,
        name=kind.name,
        split=kind.split,
        fingerprint=fingerprint(spec) if "pipeline" in spec else "",
        spec=spec,
        latent_shape=latent_shape,
        format=spec["format"],
        latent_dtype=spec["latent_dtype"],
        image_size=image_size,
        steps=spec["steps"],
        candidates=candidates,
        n_prompts=prompts,
        rows=prompts * candidates,
        rows_per_shard=1,
        positions=tuple(positions),
        preview=preview,
        shards=(),
        signals=signals,
        int8_encoding=spec.get("int8_encoding", "plain"),
    )
    # a prompt's candidates stay together
    default_rows = max(1, min(SHARD_ROWS, SHARD_BYTES // info.row_bytes) // candidates) * candidates
    info = replace(info, rows_per_shard=spec["rows_per_shard"] or default_rows)
    return replace(info, shards=(None,) * info.n_shards)


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of the prompts as one JSON list, with one prompt in memory at a time."""
    total, comma = hashlib.sha256(b"["), b""
    for prompt in prompts:
        total.update(comma + json.dumps(asdict(prompt), sort_keys=True).encode())
        comma = b", "
    total.update(b"]")
    return total.hexdigest()


def call_arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the pipeline's call; a guidance of None leaves it to the pipeline."""
    guidance = {} if spec["guidance"] is None else {"guidance_scale": spec["guidance"]}
    return {"num_inference_steps": spec["steps"], **guidance, **spec["call_kwargs"]}


def maker_of(spec: Mapping[str, Any], location: str | None = None) -> PipelineEntry:
    """The pipeline that made a data set, by the name in its spec, or at `location`: a folder or Hub id.

    Its LoRAs are left out: `recorded_loras` finds them.

    Raises:
        NbenchError: it cannot be found, or its files differ.
    """
    if "pipeline" not in spec:
        raise NbenchError("this data set does not name a pipeline that made it")
    recorded, content = spec["pipeline"]["name"], spec["pipeline"]["content"]
    name = location or recorded
    alias = ALIASES.get(name)
    is_folder = Path(alias.source if alias else name).exists()  # or a single file
    # the commit identifies a pipeline on the Hub, and may not be the newest; a hash of its files identifies a folder
    commit = content if re.fullmatch("[0-9a-f]{40}", content) else None
    if is_folder and commit:
        raise NbenchError(f"{name} is a folder, but this data set was made with {recorded} from the Hub at {commit}")
    if not is_folder and not commit:
        raise NbenchError(f"this data set was made with a local folder, and {name} is not one")
    entry = resolve_pipeline(name, PipelineOptions(revision=commit, variant=spec.get("variant")))
    if entry.content != content:
        raise NbenchError(f"pipeline {name} is not the one that made this data set: its files differ")
    return entry


def recorded_loras(spec: Mapping[str, Any], sources: Sequence[str] = ()) -> tuple[Lora, ...]:
    """The LoRAs that a data set was made with, by the names in its spec, or at `sources`, in their order.

    Raises:
        NbenchError: one cannot be found, or its file differs.
    """
    recorded = spec.get("loras", [])
    names = sources or [lora["name"] for lora in recorded]
    if len(names) != len(recorded):
        raise NbenchError(f"this data set was made with {len(recorded)} LoRAs: name each of them, in their order")
    loras = find_loras(f"{name}:{lora['weight']}" for name, lora in zip(names, recorded, strict=True))
    for found, lora in zip(loras, recorded, strict=True):
        if found.content != lora["content"]:
            raise NbenchError(f"LoRA {found.name} is not the one that made this data set: its file differs")
    return loras
