"""The content of a page: figures and pictures against their sources, its size, and inputs that do not fit."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import RepoCard
from PIL import Image

from nbench.benchmarks.report.inputs import bench_of, gather, scored
from nbench.benchmarks.report.page import LIMIT, make_page, write_space
from nbench.benchmarks.report.trajectories import SIZES, spread, trajectories
from nbench.benchmarks.results.result_file import read_result
from nbench.errors import NbenchError
from nbench.shards.reader import Bench

from ...small_bench import CANDIDATES, FAILED, PROMPTS, STEPS
from .conftest import HOSTILE, MODEL, safe


def data_of(text: str) -> dict:
    """The data that the page's script parses: the element ends at the first `</script`, as in a browser."""
    element = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    assert element
    return json.loads(element[1])


def test_the_figures_are_those_of_the_results(results: Path, bench: Bench) -> None:
    data = data_of(make_page(gather([results]), bench, 3).text)
    assert data["models"] == [MODEL, "random"]
    table = [dict(zip(data["rows"]["columns"], line, strict=True)) for line in data["rows"]["values"]]
    expected = [row for name in ("brightness", "random") for row in read_result(results / f"{name}.json").rows]
    assert len(table) == len(expected) == 6
    for row, original in zip(table, expected, strict=True):
        assert (row["model"], row["position"], row["n_scored"]) == (
            original.model,
            original.position,
            original.n_scored,
        )
        assert row["spearman"] == (original.spearman and pytest.approx(original.spearman, rel=1e-4))
        if original.spearman_ci:
            assert (row["spearman_low"], row["spearman_high"]) == pytest.approx(original.spearman_ci, rel=1e-4)


def test_the_viewer_has_each_prompts_scores_references_and_pictures(results: Path, bench: Bench) -> None:
    inputs = gather([results])
    viewer = data_of(make_page(inputs, bench, PROMPTS).text)["viewer"]
    assert viewer["positions"] == [0, 5, STEPS]
    assert [prompt["text"] for prompt in viewer["prompts"][: len(HOSTILE)]] == list(map(safe, HOSTILE))
    raw = scored(inputs, bench, [prompt.prompt_id for prompt in bench.prompts])
    for row, prompt in enumerate(viewer["prompts"]):
        there = np.array(prompt["present"])
        assert there.tolist() == [(row, candidate) != FAILED for candidate in range(CANDIDATES)]
        scores = np.array(prompt["scores"][MODEL][1], float)
        np.testing.assert_allclose(scores, raw.models[MODEL][5][row], rtol=1e-4)
        np.testing.assert_allclose(
            np.array(prompt["references"]["clip"], float), raw.references["clip"][row], rtol=1e-4
        )
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(prompt["images"].partition(",")[2]))).convert("L"))
        width, height = prompt["image_size"]
        assert sheet.shape == (height * CANDIDATES, width)
        means = sheet.reshape(CANDIDATES, -1).mean(axis=1)  # a final image is as bright as its quality
        np.testing.assert_allclose(means[there], 255 * raw.references["clip"][row][there], atol=3)


def test_a_sheet_has_the_preview_of_each_candidate_at_each_position(bench: Bench) -> None:
    (trajectory,) = trajectories(bench, [15], (5, 10))  # rows 60..63: the first of a shard
    assert trajectory.previews is not None
    assert trajectory.prompt.prompt_id == "p15"
    sprites = trajectory.sprites(SIZES[0])
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprites.previews.partition(",")[2]))).convert("L"))
    tiles = sheet.reshape(CANDIDATES, sprites.preview_size[1], 2, sprites.preview_size[0]).mean(axis=(1, 3))
    stored = next(b for b in bench.batches((5, 10), batch_size=240) if "p15" in b.prompt_ids)
    rows = [row for row, name in enumerate(stored.prompt_ids) if name == "p15"]
    expected = np.stack([stored.latents[k][rows, 0].astype(float).mean(axis=(1, 2)) for k in (5, 10)], axis=1)
    np.testing.assert_allclose(tiles, 255 * expected.clip(0, 1), atol=3)


def test_a_prompt_is_whole_though_its_rows_come_in_two_batches_or_shards(bench: Bench) -> None:
    numbers = list(range(PROMPTS))
    drawn = list(trajectories(bench, numbers, (10,)))
    assert [trajectory.prompt.prompt_id for trajectory in drawn] == [prompt.prompt_id for prompt in bench.prompts]
    assert sum(sum(trajectory.present) for trajectory in drawn) == PROMPTS * CANDIDATES - 1


def test_a_page_keeps_below_its_limit_by_showing_fewer_prompts(results: Path, bench: Bench) -> None:
    inputs = gather([results])
    bare = len(make_page(inputs, None, 0).text.encode())
    page = make_page(inputs, bench, PROMPTS, limit=bare + 40_000)
    assert 0 < page.shown < PROMPTS == page.of
    assert bare < len(page.text.encode()) <= bare + 40_000
    with pytest.raises(NbenchError, match="give fewer results"):
        make_page(inputs, bench, PROMPTS, limit=bare)
    assert len(make_page(inputs, bench, PROMPTS).text.encode()) < LIMIT


def test_prompts_are_spread_over_the_bench() -> None:
    assert spread(range(100), 5) == [0, 25, 50, 74, 99]
    assert spread(range(3), 40) == [0, 1, 2]


def test_what_people_wrote_is_no_markup(results: Path, bench: Bench) -> None:
    text = make_page(gather([results]), bench, PROMPTS).text
    assert data_of(text)["viewer"]["prompts"][1]["text"] == HOSTILE[1]
    assert not [hostile for hostile in (*HOSTILE, MODEL) if hostile in text]


def test_a_space_says_that_it_is_static(results: Path, tmp_path: Path) -> None:
    page = make_page(gather([results]), None, 0)
    written = write_space(tmp_path / "space", page, 'a "bench": \n- odd')
    settings = RepoCard.load(tmp_path / "space" / "README.md", repo_type="space").data.to_dict()  # as the Hub reads it
    assert (settings["sdk"], settings["app_file"]) == ("static", written.name)
    assert settings["title"] == 'nbench: a "bench": \n- odd'


def test_results_that_do_not_belong_together_are_refused(results: Path, bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match="no results in"):
        gather([tmp_path])
    with pytest.raises(NbenchError, match="no result at"):
        gather([tmp_path / "none.json"])
    shutil.copytree(results, tmp_path / "again")
    with pytest.raises(NbenchError, match="2 results of"):
        gather([results, tmp_path / "again"])
    other = json.loads((results / "random.json").read_text()) | {"bench_fingerprint": "0" * 8}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(NbenchError, match="of 2 \\(small@00000000, small@ffffffff\\)"):
        gather([results, tmp_path / "other.json"])
    with pytest.raises(NbenchError, match="is not the build of small that the results are of"):
        bench_of(gather([tmp_path / "other.json"]), str(bench.path))
    (tmp_path / "again" / "random.parquet").unlink()
    with pytest.raises(NbenchError, match="no raw scores at"):
        make_page(gather([tmp_path / "again"]), bench, 2)


def test_a_folder_may_hold_other_files(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "mixed")
    (tmp_path / "mixed" / "other.json").write_text("[]")
    inputs = gather([tmp_path / "mixed"])
    assert [result.model for _, result in inputs.results] == [MODEL, "random"]
    assert len(inputs.left_out) == 1
    assert "other.json" in inputs.left_out[0]
