"""Data sets that grow: old shards and scores stay, new rows are those of a build at once, readers see one data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbench.benchmarks.build import build as build_with_references
from nbench.benchmarks.report.trajectories import trajectories
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.dataset import read_info
from nbench.shards.reader import open_bench
from nbench.shards.schema import Block, DatasetInfo
from nbench.shards.scores import read_scores, scores_at
from nbench.shards.verify import verify

from ..forked import run_program
from .conftest import DIES, save_scenes

SMALL = BuildConfig("genai-bench", limit=3, candidates=2, steps=2, rows_per_shard=4, batch_size=4, references=("clip",))
LARGE = replace(SMALL, limit=5, candidates=3)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def rows(folder: Path) -> dict[str, Any]:
    """By id: prompt, seed, finished latent and image."""
    bench = open_bench(folder)
    return {
        f"{batch.prompt_ids[i]}/{batch.candidates[i]}": (
            batch.prompts[i], batch.seeds[i], batch.latents[bench.info.steps][i], batch.images[i],
        )
        for batch in bench.batches(bench.info.stored, images=True)
        if batch.images is not None
        for i in range(len(batch))
    }  # fmt: skip


def assert_same_rows(folder: Path, other: Path) -> None:
    ours, theirs = rows(folder), rows(other)
    assert ours.keys() == theirs.keys()
    for name, (prompt, seed, latent, image) in ours.items():
        assert (prompt, seed) == theirs[name][:2]
        np.testing.assert_allclose(latent, theirs[name][2], atol=0.02)
        assert np.abs(image.astype(int) - theirs[name][3]).mean() < 1


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("at-once") / "bench"
    build_with_references(replace(LARGE, out=out), progress=False)
    return out


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], Any]:
    """A data set that was extended, with the shards and the scores that it had before."""
    out = tmp_path_factory.mktemp("grown") / "bench"
    build_with_references(replace(SMALL, out=out), progress=False)
    before, scores = shards(out), scores_at(read_scores(out / "scores" / "clip.parquet"), SMALL.n_steps)
    assert build_with_references(replace(LARGE, out=out, extend=True), progress=False).built == 9
    return out, before, scores


@pytest.mark.slow
def test_an_extended_data_set_has_the_rows_of_one_built_at_once(grown: Any, at_once: Path) -> None:
    out, before, scores = grown
    assert_same_rows(out, at_once)
    assert verify(out).defects == ()
    assert {name: shards(out)[name] for name in before} == before
    ours, theirs = (scores_at(read_scores(folder / "scores" / "clip.parquet"), 2) for folder in (out, at_once))
    assert ours.keys() == theirs.keys()
    assert {key: ours[key] for key in scores} == scores
    assert ours == pytest.approx(theirs, abs=1e-2)


def test_repeating_it_makes_nothing_and_it_grows_again(grown: Any, tmp_path: Path) -> None:
    out, _, _ = grown
    before = shards(out)
    for extend in (True, False):
        assert build_with_references(replace(LARGE, out=out, extend=extend), progress=False).built == 0
    assert shards(out) == before
    more = tmp_path / "more"
    convert(ConvertConfig(str(out), str(more), format="webdataset", rows_per_shard=3))
    assert verify(more).defects == ()
    assert_same_rows(more, out)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_killed_extension_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, format: Any) -> None:
    small = replace(SMALL, format=format, references=())
    steps = [small, replace(small, candidates=3), replace(small, limit=5, candidates=3)]
    for config in steps:
        build(replace(config, out=tmp_path / "calm", extend=True), progress=False)
    code = DIES + (
        "import sys\nfrom pathlib import Path\nfrom nbench.builders.build import build\n"
        "from nbench.builders.config import BuildConfig\nfrom nbench.jobs.records import Records\n"
        "dies(Records, 'add', 1)\n"
        "build(BuildConfig('genai-bench', limit=5, candidates=3, steps=2, rows_per_shard=4, batch_size=4,"
        " format=sys.argv[2], references=(), out=Path(sys.argv[1]), extend=True), progress=False)\n"
    )
    for config in steps[:2]:
        build(replace(config, out=tmp_path / "killed", extend=True), progress=False)
    assert run_program(code, tmp_path / "killed", format).returncode == -9
    assert build(replace(steps[2], out=tmp_path / "killed"), progress=False).built == 2
    assert shards(tmp_path / "killed") == shards(tmp_path / "calm")
    assert (tmp_path / "killed" / "dataset.json").read_bytes() == (tmp_path / "calm" / "dataset.json").read_bytes()
    assert verify(tmp_path / "killed").defects == ()


def test_images_grow_with_their_ratings(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    scenes = save_scenes(tmp_path / "scenes", 6)
    config = BuildConfig("ncc", process="forward", images=scenes, steps=2, rows_per_shard=2, limit=3)
    build(replace(config, out=tmp_path / "grown"), progress=False)
    for folder, extend in (("grown", True), ("at-once", False)):
        build(replace(config, limit=6, out=tmp_path / folder, extend=extend), progress=False)
    assert_same_rows(tmp_path / "grown", tmp_path / "at-once")
    ratings = [read_scores(tmp_path / name / "scores" / "human.parquet") for name in ("grown", "at-once")]
    assert ratings[0].drop_columns("score").equals(ratings[1].drop_columns("score"))
    np.testing.assert_array_equal(ratings[0]["score"], ratings[1]["score"])
    assert verify(tmp_path / "grown").defects == ()


def test_pictures_of_a_prompt_come_from_all_its_shards(grown: Any, at_once: Path) -> None:
    ours, theirs = (list(trajectories(open_bench(folder), [0, 2, 4], [0, 2])) for folder in (grown[0], at_once))
    assert [one.prompt for one in ours] == [one.prompt for one in theirs]
    assert len(ours) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.present == other.present == (True, True, True)
        assert np.abs(mine.images.astype(int) - other.images).mean() < 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"limit": 2}, "has 5 prompts x 3 candidates, more than the 2 x 3 asked for"),
        ({"candidates": 2, "limit": 9}, "more than the 9 x 2 asked for"),
        ({"limit": 9, "seed": 1}, r"another build \(seed 0 there, 1 now\)"),
        ({"limit": 9, "tags": ("counting",)}, "are not the first 5 asked for: add prompts at the end"),
    ],
)
def test_what_is_no_extension_is_refused(grown: Any, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        build(replace(LARGE, out=grown[0], extend=True, **change), progress=False)
    assert verify(grown[0]).defects == ()


def test_without_extend_it_is_another_build(grown: Any) -> None:
    with pytest.raises(NbenchError, match="add prompts or candidates by --extend"):
        build(replace(LARGE, limit=9, out=grown[0]), progress=False)


def test_rows_and_cells_are_inverse(grown: Any) -> None:
    info = read_info(grown[0])
    cells = [info.cell(row) for row in range(info.rows)]
    assert sorted(cells) == [(prompt, candidate) for prompt in range(5) for candidate in range(3)]
    assert [[cells[row] for row in info.rows_of(prompt)] for prompt in range(5)] == [
        [(prompt, candidate) for candidate in range(3)] for prompt in range(5)
    ]
    assert all(row in info.shard_rows(info.shard_of(row)) for row in range(info.rows))


@pytest.mark.parametrize("block", [Block("", (0, 3), (3, 3)), Block("", (1, 3), (2, 3)), Block("", (0, 9), (2, 3))])
def test_blocks_that_leave_holes_are_refused(grown: Any, block: Block) -> None:
    info = read_info(grown[0])
    damaged = replace(info, blocks=(info.blocks[0], block, info.blocks[2]))
    with pytest.raises(NbenchError, match="block"):
        DatasetInfo.from_json(damaged.to_json(), "dataset.json")
