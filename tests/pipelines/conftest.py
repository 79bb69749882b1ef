"""Tests of some families alone."""

from __future__ import annotations

from typing import Any

import pytest

from ..tiny_pipelines import FAMILIES


def only(*names: str) -> Any:
    """A test of some families alone."""
    return pytest.mark.parametrize("family", [each for each in FAMILIES if each.name in names], indirect=True)
