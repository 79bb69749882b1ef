"""Prompts, and how a row of a user's table becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...errors import NbenchError, one_line
from ...shards.schema import CORRUPTION_KINDS, SKILL_LEVELS, Corruptions, Tags
from .tags import SKILL_COLUMNS, listed_skills, unread_tags, written_tags
from .text_rows import is_missing, json_object

_TAGS: TypeAdapter[Tags] = TypeAdapter(Tags)
_CORRUPTIONS: TypeAdapter[Corruptions] = TypeAdapter(Corruptions)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt; `tags` are the skills it asks for (basic, advanced), `corruptions` its near misses by kind."""

    id: str
    text: str
    tags: Tags | None = None
    corruptions: Corruptions | None = None


@dataclass(frozen=True)
class Table:
    """The unread rows of a table.

    `source` is its name in a spec, `place` its name in errors. `read` iterates over the rows from the first one,
    each with at least the requested columns. `prompt`, `id` and `tags` name columns; rows without an id get their
    number, with `digits` digits. If the table is in our format (`ours`), malformed tags and corruptions are errors;
    elsewhere columns of these names may mean something else, and are left out.
    """

    source: str
    place: str
    columns: Sequence[str]
    read: Callable[[Sequence[str]], Iterator[Mapping[str, Any]]]
    digits: int
    prompt: str = "prompt"
    id: str = "id"
    tags: str = "tags"
    ours: bool = True


def table_prompts(table: Table, prompt_column: str | None = None, id_column: str | None = None) -> Iterator[Prompt]:
    """One prompt per row, in order; its text is "" where the row has none.

    Raises:
        NbenchError: a missing column, a prompt or an id that is not text, malformed tags or corruptions.
    """
    prompt_name, id_name = prompt_column or table.prompt, id_column or table.id
    for name in filter(None, (prompt_name if table.columns else None, id_column)):
        if name not in table.columns:
            raise _missing(table.place, name, table.columns)
    names = (prompt_name, id_name, *_tag_columns(table), "corruptions")
    for number, row in enumerate(table.read([name for name in names if name in table.columns])):
        place = f"{table.place} row {number + 1}"
        if prompt_name not in row:
            raise _missing(place, prompt_name, row)
        row_id, text = row.get(id_name), row[prompt_name]
        yield Prompt(
            f"{number:0{table.digits}d}" if is_missing(row_id) else _plain(row_id, place, f"id in {id_name}"),
            "" if is_missing(text) else _plain(text, place, f"prompt in {prompt_name}", (str,)).strip(),
            _tags(row, table, place),
            _corruptions(row, table, place),
        )


def _missing(place: str, name: str, columns: Sequence[str] | Mapping[str, Any]) -> NbenchError:
    available = one_line(", ".join(map(str, columns)))
    return NbenchError(
        f"{place}: no column `{name}` (it has {available}): name one with --prompt-column or --id-column"
    )


def _plain(value: object, place: str, what: str, kinds: tuple[type, ...] = (str, int, float)) -> str:
    """A text, or a number as text; invalid Unicode is refused here, not when a shard is written."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise NbenchError(f"{place}: the {what} is {type(value).__name__}, not text: choose another column")
    text = str(value)
    if "\0" in text:
        raise NbenchError(f"{place}: the {what} has a NUL character: write the file as UTF-8 text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NbenchError(f"{place}: the {what} is not valid Unicode: fix it or remove the row") from None
    return text


def _tag_columns(table: Table) -> tuple[str, ...]:
    return (table.tags, *SKILL_COLUMNS.values())


def unread_note(table: Table) -> str | None:
    """A note about columns that look like tags, but are not read as such; None if there are none."""
    unread = unread_tags(table.columns, (table.prompt, table.id, *_tag_columns(table)))
    if not unread:
        return None
    return f"{table.place}: column {one_line(', '.join(unread))} is not read; prompts have their skills in {table.tags}"


def _tags(row: Mapping[str, Any], table: Table, place: str) -> Tags | None:
    if table.tags in row:
        value = row[table.tags]
        if table.ours:
            value = written_tags(value, f"{place}, column {table.tags}")
        if isinstance(value, Mapping) and set(value) == set(SKILL_LEVELS):
            value = None if _empty(value) else {level: value[level] or [] for level in SKILL_LEVELS}
    elif any(name in row for name in SKILL_COLUMNS.values()):
        value = {level: listed_skills(row.get(name)) for level, name in SKILL_COLUMNS.items()}
    else:
        return None
    return _checked(value, _TAGS, SKILL_LEVELS, table, f"{place}: {table.tags}")


def _corruptions(row: Mapping[str, Any], table: Table, place: str) -> Corruptions | None:
    value = row.get("corruptions")
    if isinstance(value, str) and table.ours:
        value = json_object(value, f"{place}, column corruptions")
    if isinstance(value, Mapping) and _empty(value):
        value = None
    return _checked(value, _CORRUPTIONS, CORRUPTION_KINDS, table, f"{place}: corruptions")


def _empty(value: Mapping[str, Any]) -> bool:
    """Whether all values are null, as tables store a missing object."""
    return bool(value) and all(item is None for item in value.values())


def _checked(value: Any, form: TypeAdapter[Any], keys: Sequence[str], table: Table, what: str) -> Any:
    if value is None:
        return None
    try:
        checked = form.validate_python(value)
    except ValidationError as error:
        if not table.ours:
            return None
        raise NbenchError(f"{what} are malformed: {error.errors()[0]['msg']}") from None
    if set(checked) == set(keys):
        return checked
    if not table.ours:
        return None
    raise NbenchError(f"{what} need {', '.join(keys)}; these have {one_line(', '.join(checked)) or 'nothing'}")
