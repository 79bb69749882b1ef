"""Where prompts come from: a file of the user's, or the embedded world's own set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import NbenchError
from ..shapes import grammar
from ..shards.schema import CORRUPTION_KINDS, SKILL_LEVELS, Corruptions, Tags

WORLD_PROMPTS = {"genai-bench": 200, "ncc": 4000}
MAX_REPEATS = 1000
"""So many captions in a row that were there before mean that the grammar, which never ends by itself, is used up."""


@dataclass(frozen=True)
class Prompt:
    """A prompt; `tags` are the skills it asks for (basic, advanced), `corruptions` its near misses by kind."""

    id: str
    text: str
    tags: Tags | None = None
    corruptions: Corruptions | None = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a .jsonl, .csv or text file (one a line).

    Columns: `prompt`; optional `id` (default: the row's number), `tags` and `corruptions` (objects; JSON in a CSV).

    Raises:
        NbenchError: unreadable, empty, a column or a prompt missing, an id given twice, a value of the wrong form.
    """
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NbenchError(f"cannot read prompts from {path}: {getattr(error, 'strerror', None) or error}") from None
    if not rows:
        raise NbenchError(f"prompt file {path} is empty: it needs at least one prompt")
    digits = len(str(len(rows) - 1))
    prompts = [_prompt(row, f"{number:0{digits}d}", f"{path} row {number + 1}") for number, row in enumerate(rows)]
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise NbenchError(f"prompt file {path} has the id {prompt.id!r} twice: ids must be unique")
        seen.add(prompt.id)
    return prompts


def world_prompts(kind: str, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """The embedded world's prompts: for a "genai-bench" the combinations held out of training, for "ncc" the others.

    Raises:
        NbenchError: more asked for than the world has.
    """
    wanted = WORLD_PROMPTS[kind] if limit is None else limit
    found: dict[str, Prompt] = {}
    repeats = 0
    for scene in grammar.scenes(seed, held_out=kind == "genai-bench"):
        if len(found) == wanted or repeats == MAX_REPEATS:
            break
        repeats = repeats + 1 if scene.caption in found else 0
        if not repeats:
            corruptions = grammar.corruptions(scene) if kind == "ncc" else None
            found[scene.caption] = Prompt(f"shapes-{len(found):05d}", scene.caption, scene.tags, corruptions)
    if len(found) < wanted:
        raise NbenchError(f"the shapes world has only some {len(found)} different prompts: lower --limit {wanted}")
    return list(found.values())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every row as a dictionary; what is no object is under "prompt"."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            for row in csv.DictReader(file):
                yield {name: value for name, value in row.items() if value or name == "prompt"}
        else:
            lines = ((number, line.strip()) for number, line in enumerate(file, 1))
            for number, line in ((number, line) for number, line in lines if line):
                yield _json(line, f"{path} line {number}") if path.suffix.lower() == ".jsonl" else {"prompt": line}


def _json(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NbenchError(f'{place}: not a JSON object: write {{"prompt": "..."}} or {{"basic": [...]}}')
    return value


def _prompt(row: dict[str, Any], default_id: str, place: str) -> Prompt:
    if "prompt" not in row:
        raise NbenchError(f"{place}: no column `prompt` (it has {', '.join(map(str, row))}): name the texts so")
    text = row["prompt"]
    if not isinstance(text, str) or not text.strip():
        raise NbenchError(f"{place}: the prompt is empty: give it a text or remove the row")
    nested = {
        name: _json(value, f"{place}, column {name}") if isinstance(value := row.get(name), str) else value
        for name in ("tags", "corruptions")
    }
    try:
        tags = TypeAdapter(Tags | None).validate_python(nested["tags"])
        corruptions = TypeAdapter(Corruptions | None).validate_python(nested["corruptions"])
    except ValidationError as error:
        raise NbenchError(f"{place}: tags or corruptions of the wrong form: {error.errors()[0]['msg']}") from None
    for name, value, keys in (("tags", tags, SKILL_LEVELS), ("corruptions", corruptions, CORRUPTION_KINDS)):
        if value is not None and set(value) != set(keys):
            raise NbenchError(f"{place}: {name} need {', '.join(keys)}; these have {', '.join(value) or 'nothing'}")
    given = row.get("id")
    return Prompt(default_id if given is None else str(given), text.strip(), tags, corruptions)
