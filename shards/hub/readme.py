"""A README.md of which a part is generated: between markers, and those YAML keys that the user has not written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from ...errors import NbenchError, reason_of

BEGIN, END = "<!-- nbench: begin -->", "<!-- nbench: end -->"
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def merge(front: Mapping[str, Any], text: str, existing: str) -> str:
    """A README with the YAML keys of `front` and with `text` between markers, and all that is in `existing`.

    A key that `existing` has keeps its value. The text between its markers is replaced; without markers, `text` comes
    after all of it.

    Raises:
        NbenchError: the YAML of `existing` cannot be read.
    """
    found = _FRONT.match(existing)
    theirs, body = (found["yaml"], existing[found.end() :]) if found else ("", existing.removeprefix("\ufeff"))
    try:
        known = yaml.safe_load(theirs) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and numbers that are none, deep nesting
        raise NbenchError(
            f"the YAML at the top of README.md cannot be read ({reason_of(error)}): mend or remove it"
        ) from None
    if not isinstance(known, dict):
        raise NbenchError("the YAML at the top of README.md is not a list of `key: value`: mend or remove it")
    added = {key: value for key, value in front.items() if key not in known}
    if theirs.lstrip().startswith("{"):  # a mapping in braces cannot be gone on with
        theirs, added = "", {**known, **added}
    if added:
        theirs += "" if not theirs or theirs.endswith("\n") else "\n"
        theirs += yaml.safe_dump(added, sort_keys=False, allow_unicode=True)
    end = body.rfind(END)
    begin = body.rfind(BEGIN, 0, end) if end >= 0 else -1
    if begin >= 0:
        before, after = body[:begin], body[end + len(END) :]
    else:
        before, after = (f"{body.rstrip()}\n\n" if body.strip() else "\n"), "\n"
    return f"---\n{theirs}---\n{before}{BEGIN}\n{text}\n{END}{after}"
