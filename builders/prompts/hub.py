"""Prompts on the Hub: GenAI-Bench and CC12M by name, any data set by its id; streamed, never downloaded whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import NbenchError, reason_of
from ...shards.schema import SKILL_LEVELS, Tags
from .rows import Table
from .tags import SKILLS

NAMES = {
    "genai-bench": "BaiqiL/GenAI-Bench",
    "genai-bench-527": "zhiqiulin/GenAI-Bench-527",
    "cc12m": "CaptionEmporium/conceptual-captions-cc12m-llavanext",
}
_JSON_REPOS = ("BaiqiL/GenAI-Bench-1600", "zhiqiulin/GenAI-Bench-527")
"""Repositories of image archives, with the prompts in two JSON files."""
_RATINGS = "models"
_GROUPS = {*SKILL_LEVELS, "all"}
"""Keys of genai_skills.json that are not skills."""
_DIGITS = 8
"""Digits of row numbers used as ids: a stream does not tell its length, and the ids must not depend on it."""

_BLOCK_BYTES = 2**18
"""Read-ahead per range of columns; the client's default, 5 MiB, is more than all prompts of most data sets."""


@dataclass(frozen=True)
class _Address:
    """A data set on the Hub: `name[@revision][:split]`, where a name is one of `NAMES` or user/name."""

    name: str
    revision: str | None
    split: str | None

    @property
    def repo(self) -> str:
        return NAMES.get(self.name, self.name)

    @property
    def source(self) -> str:
        return self.name if self.name in NAMES else f"hub:{self.name}"


def is_hub_name(text: str) -> bool:
    """Whether `text` has the form of a data set on the Hub."""
    return _parse(text) is not None


def hub_table(text: str) -> Table:
    """The rows of a data set on the Hub; only the columns and rows that are read are fetched.

    Raises:
        NbenchError: no such data set, revision, split or file, or the Hub refuses or does not answer.
    """
    address = _address(text)
    return _json_table(address) if address.repo in _JSON_REPOS else _streamed(address)


def pinned(text: str) -> tuple[str, str]:
    """The data set that `text` names, with its revision replaced by the current commit; and that commit.

    Raises:
        NbenchError: as `hub_table`.
    """
    from huggingface_hub import HfApi

    address = _address(text)
    with _reading(address):
        commit = str(HfApi().dataset_info(address.repo, revision=address.revision).sha)
    split = f":{address.split}" if address.split else ""
    return f"{address.name}@{commit}{split}", commit


def _address(text: str) -> _Address:
    address = _parse(text)
    if address is None:
        raise NbenchError(
            f"{text!r} is not a data set on the Hub: write user/name, user/name@revision or user/name:split"
        )
    return address


def _parse(text: str) -> _Address | None:
    match = re.fullmatch(r"([^@:]+)(?:@([^@:]+))?(?::([\w.-]+))?", text)
    if not match or not (match[1] in NAMES or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", match[1])):
        return None
    return _Address(match[1], match[2], match[3])


def _streamed(address: _Address) -> Table:
    datasets = _datasets()
    with _reading(address):
        builder = datasets.load_dataset_builder(address.repo, revision=address.revision)
        splits = builder.as_streaming_dataset()
    split = _split(address, list(splits))
    with _reading(address):
        columns = tuple(splits[split].column_names or next(iter(splits[split]), {}))
    options: dict[str, Any] = {}
    if hasattr(builder.config, "columns"):
        # only named columns of Parquet are fetched: GenAI-Bench has gigabytes of images and kilobytes of prompts
        options["storage_options"] = {"hf": {"block_size": _BLOCK_BYTES}}

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        only = {**options, "columns": list(names)} if options else {}
        with _reading(address):
            rows = datasets.load_dataset(address.repo, revision=address.revision, split=split, streaming=True, **only)
            rows = rows.select_columns(list(names))
            # images stay as they are encoded; where the types of columns are not known there are none
            yield from rows.decode(False) if rows.features else rows

    return Table(address.source, _place(address), columns, read, _DIGITS, **_layout(columns), ours=False)


def _layout(columns: Sequence[str]) -> dict[str, str]:
    """Column names of the published data sets, by which their copies are recognised, too."""
    if {"Prompt", "Index"} <= set(columns):
        return {"prompt": "Prompt", "id": "Index", "tags": "Tags"}
    if {"caption_llava_short", "key"} <= set(columns):
        return {"prompt": "caption_llava_short", "id": "key"}
    return {}


def _split(address: _Address, splits: Sequence[str]) -> str:
    split = address.split or (splits[0] if len(splits) == 1 else "")
    if split not in splits:
        problem = f"no split {split!r} in" if split else "several splits in"
        raise NbenchError(f"{problem} {address.repo}: write {address.name}:SPLIT, with one of {', '.join(splits)}")
    return split


def _json_table(address: _Address) -> Table:
    prompts, skills = (_json(address, name) for name in ("genai_image.json", "genai_skills.json"))
    if address.split not in (None, "train"):
        raise NbenchError(f"no split {address.split!r} in {address.repo}: it has no splits, leave it out")
    tags = _skills_of(address, skills)
    rows = []
    for key, entry in prompts.items():
        if not isinstance(entry, dict) or not key.isdecimal():
            raise NbenchError(f"genai_image.json of {address.repo} is damaged at {key[:40]!r}: choose another revision")
        nothing: Tags = {level: [] for level in SKILL_LEVELS}
        fields = {name: value for name, value in entry.items() if name != _RATINGS}  # they belong to published images
        rows.append({"id": key, **fields, "tags": tags.get(int(key), nothing)})
    columns = tuple({name: None for row in rows for name in row})
    return Table(address.source, _place(address), columns, lambda names: iter(rows), _DIGITS)


def _skills_of(address: _Address, listed: dict[str, Any]) -> dict[int, Tags]:
    """The tags by prompt number, from prompt numbers by skill."""
    levels = {skill: level for level, skills in SKILLS.items() for skill in skills}
    tags_of: dict[int, Tags] = {}
    for skill, numbers in listed.items():
        if skill in _GROUPS:
            continue
        if skill not in levels or not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            raise NbenchError(
                f"genai_skills.json of {address.repo} is damaged at {skill[:40]!r}: choose another revision"
            )
        for number in numbers:
            tags = tags_of.setdefault(number, {level: [] for level in SKILL_LEVELS})
            tags[levels[skill]].append(skill)
    return tags_of


def _json(address: _Address, name: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    with _reading(address):
        path = hf_hub_download(address.repo, name, repo_type="dataset", revision=address.revision)
        content = json.loads(Path(path).read_bytes())
    if not isinstance(content, dict):
        raise NbenchError(f"{name} of {address.repo} is damaged: choose another revision")
    return content


def _datasets() -> Any:
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    return datasets


def _place(address: _Address) -> str:
    return f"{address.repo} on the Hub"


@contextmanager
def _reading(address: _Address) -> Iterator[None]:
    from huggingface_hub import get_token

    try:
        yield
    except Exception as error:  # the Hub's clients raise a dozen unrelated types
        reason = reason_of(error)
        if token := get_token():
            reason = reason.replace(token, "***")
        raise NbenchError(
            f"cannot read prompts from {_place(address)} ({reason}): check the name (it is not a local file "
            "either) and the network; a private or gated data set needs `hf auth login`"
        ) from None
