"""compare, leaderboard, check-leak and agreement as a user runs them: output, JSON alone, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import Run

V1 = Path(__file__).parents[1] / "benchmarks" / "results" / "historic" / "v1.json"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One old result, twice."""
    folder = tmp_path / "results" / "small"
    folder.mkdir(parents=True)
    result = json.loads(V1.read_text())
    for name in ("a", "b"):
        (folder / f"{name}.json").write_text(json.dumps(result))
    return folder.parent


def test_compare_says_what_it_has_and_what_it_lacks(run: Run, results: Path) -> None:
    code, out, err = run("compare", "a", "small/b", "--results", results)
    assert code == 0
    assert "Spearman" in out
    assert "--bench" in err
    code, out, err = run("compare", "a", "b", "--results", results, "--json")
    printed = json.loads(out)
    assert (code, err) == (0, "")
    assert {row["difference"] for row in printed["rows"] if row["a"] is not None} == {0}
    shown = run("compare", "a", "b", "--results", results, "--positions")[1]
    assert shown.count("Best-of-N") == len([row for row in printed["rows"] if row["metric"] == "best_of_n"])
    code, out, err = run("compare", "a", "c", "--results", results)
    assert (code, out) == (2, "")
    assert err.startswith("error: no result 'c'")


def test_leaderboard_prints_one_format_and_tells_the_rest_aside(run: Run, results: Path) -> None:
    (results / "bad.json").write_text("{}")
    code, out, err = run("leaderboard", results, "--format", "csv")
    assert code == 0
    assert out.startswith("model,bench,position,reference,spearman")
    assert err.startswith("left out: ")
    assert json.loads(run("leaderboard", results, "--json")[1])["sort"] == "spearman"
    assert "Spearman" in run("leaderboard", results)[1]
    assert run("leaderboard", results, "--sort", "speed")[0] == 2
    assert run("leaderboard", results, "--format", "pdf")[0] == 2
    code, out, err = run("leaderboard", results, "--format", "html")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("there are table, md, csv, latex, json; nbench report makes a page")


def test_check_leak_exits_with_1_when_something_is_found(run: Run, tmp_path: Path) -> None:
    bench, train, clean = (tmp_path / name for name in ("bench.txt", "train.txt", "clean.txt"))
    bench.write_text("a red cube\nthree people under an umbrella in the rain\n")
    train.write_text("A red cube!\na dog\nthree people under an umbrella in the rain today\n")
    clean.write_text("a dog\n")
    code, out, err = run("check-leak", train, bench)
    assert (code, err) == (1, "")
    assert out.splitlines()[0].startswith("normalised 1.00: 0 'a red cube' <- 1 x, first 0 'A red cube!'")
    assert out.splitlines()[-1] == "3 captions against 2 prompts: 0 exact, 1 normalised, 1 near; 0 of 0 corruptions"
    assert run("check-leak", clean, bench)[0] == 0
    code, out, _ = run("check-leak", train, bench, "--json", "--show", 1, "--threshold", "1")
    printed = json.loads(out)
    assert (code, printed["counts"], len(printed["leaks"])) == (
        1,
        {"exact": 0, "normalised": 1, "near": 0, "corruption": 0},
        1,
    )
    for arguments in (("-", "-"), (train, bench, "--show", "-1"), (train, bench, "--threshold", "2"), (train, "no")):
        code, out, err = run("check-leak", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_agreement_reads_tables_and_prints_rows(run: Run, tmp_path: Path) -> None:
    scores, ratings, tags = tmp_path / "scores.csv", tmp_path / "ratings.csv", tmp_path / "skills.json"
    rows = [(prompt, image, prompt + image) for prompt in range(4) for image in range(3)]
    scores.write_text("prompt_id,image,score\n" + "\n".join(f"{p:05d},{i},{value / 10}" for p, i, value in rows))
    ratings.write_text("prompt_id,image,rating\n" + "\n".join(f"{p:05d},{i},{value}" for p, i, value in rows))
    tags.write_text(json.dumps({"counting": [1, 2]}))
    code, out, err = run("agreement", scores, ratings, "--tags", tags, "--json")
    printed = json.loads(out)
    assert (code, err, printed["n_rated"]) == (0, "", 12)
    assert [row["skill"] for row in printed["rows"]] == ["all", "counting"] * 2
    assert all(row["kendall"] == pytest.approx(1) for row in printed["rows"])
    shown = run("agreement", scores, ratings)[1]
    assert "12 rated images" in shown
    assert "within" in shown
    code, out, err = run("agreement", scores)
    assert (code, out) == (2, "")
    assert "--bench" in err
