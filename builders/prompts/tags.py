"""The tags of a prompt, the skills it asks for by level, in the ways in which tables write them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ...errors import NbenchError, one_line
from ...shards.schema import SKILL_LEVELS, Tags
from .text_rows import json_object

SKILLS = {
    "basic": ("attribute", "scene", "spatial relation", "action relation", "part relation"),
    "advanced": ("counting", "comparison", "differentiation", "negation", "universal"),
}
"""GenAI-Bench's skills by level."""
SKILL_COLUMNS = {level: f"{level}_skills" for level in SKILL_LEVELS}
_LEVEL_OF = {skill: level for level, skills in SKILLS.items() for skill in skills}
_LIKE_TAGS = {"tag", "tags", "skill", "skills", "basic", "advanced", "category", "categories", "label", "labels"}


def written_tags(value: object, place: str) -> object:
    """Tags by level from a cell: an object, as text in JSON, or names of skills, as text separated by `;`, `,` or `|`.

    What is neither stays as it is.

    Raises:
        NbenchError: a skill whose level is not known, or text that begins like JSON and is not an object.
    """
    if isinstance(value, str):
        text = value.strip()
        value = json_object(text, place) if text.startswith("{") else listed_skills(text)
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return _by_level(value, place) if value else None
    return value


def listed_skills(value: object) -> object:
    """Skills as a list; some tables store them as text: `a, b`, `["a", "b"]` or `['a', 'b']`."""
    if not isinstance(value, str):
        return value or []
    return [name for part in re.split("[,;|]", value.strip(" []")) if (name := part.strip(" '\""))]


def unread_tags(columns: Sequence[str], read: Collection[str]) -> list[str]:
    """The `columns` whose names look like tags, but are not among those that are `read`."""
    return [name for name in columns if name not in read and _LIKE_TAGS & set(re.findall("[a-z]+", name.lower()))]


def _by_level(names: Sequence[str], place: str) -> Tags:
    skills = dict.fromkeys(re.sub(r"[\s_-]+", " ", name.strip().lower()) for name in names)
    if unknown := [name for name in skills if name not in _LEVEL_OF]:
        raise NbenchError(
            f"{place}: {one_line(unknown[0], 60)!r} is none of GenAI-Bench's skills ({', '.join(_LEVEL_OF)}): write "
            'others with their level, {"basic": [...], "advanced": [...]}'
        )
    return {level: [skill for skill in skills if _LEVEL_OF[skill] == level] for level in SKILL_LEVELS}
