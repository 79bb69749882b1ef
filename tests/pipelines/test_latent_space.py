"""What a pipeline at hand tells of its latent space."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbench.pipelines import find as pipelines
from nbench.pipelines.aliases import ALIASES
from nbench.pipelines.find import resolve_pipeline
from nbench.pipelines.latent_space import preview_of


def test_the_preview_map_of_a_folder_of_a_hub_id_and_of_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = resolve_pipeline("shapes")
    shutil.copy(Path(world.source) / "nbench.json", tmp_path)
    monkeypatch.setattr(pipelines, "_hash", None)  # weights are gigabytes, and none of them is read
    monkeypatch.chdir(tmp_path)  # a pipeline of no folder has nothing to do with this one
    for source, expected in (
        (tmp_path, world.preview),
        (ALIASES["sdxl"].source, ALIASES["sdxl"].preview),
        ("someone/else", None),
        (None, None),
        ("", None),
    ):
        assert preview_of(SimpleNamespace(name_or_path=source)) == expected
