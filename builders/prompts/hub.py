"""Prompts on the Hub: GenAI-Bench and CC12M by name, any data set by its id; read in pieces, never downloaded whole."""

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

NAMES = {
    "genai-bench": "BaiqiL/GenAI-Bench",
    "genai-bench-527": "zhiqiulin/GenAI-Bench-527",
    "cc12m": "CaptionEmporium/conceptual-captions-cc12m-llavanext",
}
SKILLS = {
    "basic": ("attribute", "scene", "spatial relation", "action relation", "part relation"),
    "advanced": ("counting", "comparison", "differentiation", "negation", "universal"),
}
_JSON_REPOS = ("BaiqiL/GenAI-Bench-1600", "zhiqiulin/GenAI-Bench-527")
"""Of archives of images, with the prompts in two JSON files."""
_RATINGS = "models"
_GROUPS = {*SKILL_LEVELS, "all"}
"""What genai_skills.json also lists, beside skills."""
_DIGITS = 8
"""Of the numbers of rows without an id: a stream doesn't say how many there are, and the ids must not depend on it."""

_BLOCK_BYTES = 2**18
"""Fetched beyond each range of columns that is read; the client's own 5 MiB are more than all prompts of most sets."""


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
    """The rows of a data set on the Hub; only what is read of them is fetched.

    Raises:
        NbenchError: no such data set, revision, split or file, or the Hub does not give it.
    """
    address = _parse(text)
    if address is None:
        raise NbenchError(f"{text!r} is no data set on the Hub: write user/name, user/name@revision or user/name:split")
    return _json_table(address) if address.repo in _JSON_REPOS else _streamed(address)


def pinned(text: str) -> tuple[str, str]:
    """The data set that `text` names, with the commit that its revision now is in place of the revision; the commit.

    Raises:
        NbenchError: as `hub_table`.
    """
    from huggingface_hub import HfApi

    address = _parse(text)
    if address is None:
        raise NbenchError(f"{text!r} is no data set on the Hub: write user/name, user/name@revision or user/name:split")
    with _told(address):
        commit = str(HfApi().dataset_info(address.repo, revision=address.revision).sha)
    split = f":{address.split}" if address.split else ""
    return f"{address.name}@{commit}{split}", commit


def _parse(text: str) -> _Address | None:
    found = re.fullmatch(r"([^@:]+)(?:@([^@:]+))?(?::([\w.-]+))?", text)
    if not found or not (found[1] in NAMES or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", found[1])):
        return None
    return _Address(found[1], found[2], found[3])


def _streamed(address: _Address) -> Table:
    datasets = _datasets()
    with _told(address):
        builder = datasets.load_dataset_builder(address.repo, revision=address.revision)
        splits = builder.as_streaming_dataset()
    split = _split(address, list(splits))
    with _told(address):
        columns = tuple(splits[split].column_names or next(iter(splits[split]), {}))
    options: dict[str, Any] = {}
    if hasattr(builder.config, "columns"):
        # of Parquet, what is not named is not fetched: the images of GenAI-Bench are gigabytes, its prompts kilobytes
        options["storage_options"] = {"hf": {"block_size": _BLOCK_BYTES}}

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        only = {**options, "columns": list(names)} if options else {}
        with _told(address):
            rows = datasets.load_dataset(address.repo, revision=address.revision, split=split, streaming=True, **only)
            rows = rows.select_columns(list(names))
            # images stay as they are encoded; where the types of columns are not known there are none
            yield from rows.decode(False) if rows.features else rows

    return Table(address.source, _place(address), columns, read, _DIGITS, **_layout(columns), ours=False)


def _layout(columns: Sequence[str]) -> dict[str, str]:
    """The names of columns in the published sets, by which their copies are known, too."""
    if {"Prompt", "Index"} <= set(columns):
        return {"prompt": "Prompt", "id": "Index", "tags": "Tags"}
    if {"caption_llava_short", "key"} <= set(columns):
        return {"prompt": "caption_llava_short", "id": "key"}
    return {}


def _split(address: _Address, there: Sequence[str]) -> str:
    split = address.split or (there[0] if len(there) == 1 else "")
    if split not in there:
        told = f"no split {split!r} in" if split else "several splits in"
        raise NbenchError(f"{told} {address.repo}: write {address.name}:SPLIT, with one of {', '.join(there)}")
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
        told = {name: value for name, value in entry.items() if name != _RATINGS}  # they belong to published images
        rows.append({"id": key, **told, "tags": tags.get(int(key), nothing)})
    columns = tuple({name: None for row in rows for name in row})
    return Table(address.source, _place(address), columns, lambda names: iter(rows), _DIGITS)


def _skills_of(address: _Address, listed: dict[str, Any]) -> dict[int, Tags]:
    """The tags of prompts by their number, of the numbers of prompts by skill."""
    levels = {skill: level for level, skills in SKILLS.items() for skill in skills}
    found: dict[int, Tags] = {}
    for skill, numbers in listed.items():
        if skill in _GROUPS:
            continue
        if skill not in levels or not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            raise NbenchError(
                f"genai_skills.json of {address.repo} is damaged at {skill[:40]!r}: choose another revision"
            )
        for number in numbers:
            tags = found.setdefault(number, {level: [] for level in SKILL_LEVELS})
            tags[levels[skill]].append(skill)
    return found


def _json(address: _Address, name: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    with _told(address):
        path = hf_hub_download(address.repo, name, repo_type="dataset", revision=address.revision)
        content = json.loads(Path(path).read_bytes())
    if not isinstance(content, dict):
        raise NbenchError(f"{name} of {address.repo} is damaged: choose another revision")
    return content


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise NbenchError("prompts on the Hub need the package datasets: pip install 'nbench[hub]'") from None
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    return datasets


def _place(address: _Address) -> str:
    return f"{address.repo} on the Hub"


@contextmanager
def _told(address: _Address) -> Iterator[None]:
    from huggingface_hub import get_token

    try:
        yield
    except Exception as error:  # the Hub's clients raise a dozen unrelated types
        reason = reason_of(error)
        if token := get_token():
            reason = reason.replace(token, "***")
        raise NbenchError(
            f"cannot read prompts from {_place(address)} ({reason}): check the name (there is no such file here, "
            "either) and the network; what is private or gated needs `hf auth login`"
        ) from None
