"""Merge generated text and YAML keys into a README.md, and keep what the user wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from ...errors import NbenchError, reason_of

BEGIN, END = "<!-- nbench: begin -->", "<!-- nbench: end -->"
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def merge(front: Mapping[str, Any], text: str, existing: str) -> str:
    """The `existing` README with the YAML keys of `front`, and `text` between markers.

    Keys in `existing` keep their values. Text between its markers is replaced; without markers `text` goes to the end.

    Raises:
        NbenchError: the YAML of `existing` cannot be read.
    """
    match = _FRONT.match(existing)
    own_yaml, body = (match["yaml"], existing[match.end() :]) if match else ("", existing.removeprefix("\ufeff"))
    try:
        own_keys = yaml.safe_load(own_yaml) or {}
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: invalid dates
        raise NbenchError(
            f"the YAML at the top of README.md cannot be read ({reason_of(error)}): fix or remove it"
        ) from None
    if not isinstance(own_keys, dict):
        raise NbenchError("the YAML at the top of README.md is not a list of `key: value`: fix or remove it")
    added = {key: value for key, value in front.items() if key not in own_keys}
    if own_yaml.lstrip().startswith("{"):  # nothing can be appended to a mapping in braces
        own_yaml, added = "", {**own_keys, **added}
    if added:
        own_yaml += "" if not own_yaml or own_yaml.endswith("\n") else "\n"
        own_yaml += yaml.safe_dump(added, sort_keys=False, allow_unicode=True)
    end = body.rfind(END)
    begin = body.rfind(BEGIN, 0, end) if end >= 0 else -1
    if begin >= 0:
        before, after = body[:begin], body[end + len(END) :]
    else:
        before, after = (f"{body.rstrip()}\n\n" if body.strip() else "\n"), "\n"
    return f"---\n{own_yaml}---\n{before}{BEGIN}\n{text}\n{END}{after}"
