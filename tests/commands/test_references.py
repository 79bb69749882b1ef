"""Every command works on a bench of any pipeline with any references, or says what to type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nbench.benchmarks.metrics import best_of_n, mean_over_prompts
from nbench.benchmarks.score_tables.bench import bench_layout, final_references
from nbench.shards.reader import open_bench

from ..conftest import Run
from ..scorers.tiny_models import save_clip, save_llava

PROMPTS = ("two red circles", "one blue square", "three yellow stars", "one green cross", "two cyan circles")
OWN = """
class Mine:
    name, reads, fingerprint = "mine", "preview", "1"
    def score(self, inputs, prompts): return inputs[:, 0].flatten(1).mean(1)
"""


@pytest.fixture(autouse=True)
def offline_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test runs in an empty folder and without the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.slow
def test_every_command_works_on_a_bench_of_any_pipeline(run: Run, sd15_folder: Path, tmp_path: Path) -> None:
    def output(*arguments: object) -> str:
        code, out, err = run(*arguments)
        assert code == 0, err
        return out

    clip, llava = save_clip(Path("judge")), save_llava(Path("llava"))
    Path("mine.py").write_text(OWN)
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    build = ["build", "genai-bench", "--pipeline", sd15_folder, "--prompts", "prompts.txt", "--steps", 4]
    build += ["--candidates", 3, "--out", "data/any", "--references"]
    output(*build, f"clip=./{clip},vqascore=vqascore:./{llava},human-like=mine.py:Mine")
    listed = json.loads(output("references", "data/any", "--json"))["references"]
    assert [(row["name"], row["scorer"], row["n_scored"], row["n_unscored"]) for row in listed] == [
        ("clip", "judge", 15, 0), ("human-like", "mine.py:Mine", 15, 0), ("vqascore", "vqascore:llava", 15, 0),
    ]  # fmt: skip
    (fingerprint,) = (row["fingerprint"] for row in listed if row["name"] == "human-like")
    assert fingerprint.startswith("1-")
    assert fingerprint.endswith("-image")
    shown = f"human-like: mine.py:Mine ({fingerprint[:12]}), 15 scored, 0 unscored"
    assert shown in output("references", "data/any")

    evaluate = ["evaluate", "--bench", "data/any", "--model", "random", "--model", f"./{clip}", "--json"]
    report = json.loads(output(*evaluate))
    assert {mark["chooser"] for mark in report["yardsticks"].values()} == {"clip"}
    by_own = json.loads(output(*evaluate, "--yardstick", "human-like", "--out", "other"))
    bench = open_bench("data/any")
    arrays = final_references(bench, bench_layout(bench))
    for label, mark in by_own["yardsticks"].items():
        assert mark["chooser"] == "human-like"
        chosen = np.take_along_axis(arrays[label], arrays["human-like"].argmax(1)[:, None], 1).mean()
        assert mark["final"] == pytest.approx(chosen, abs=1e-9)
        assert mean_over_prompts(best_of_n(arrays["clip"], arrays[label])) == pytest.approx(
            report["yardsticks"][label]["final"], abs=1e-9
        )

    recorded = ["--bench", "data/any", "--model", "judge", "--n", 3, "--json"]
    assert json.loads(output("replay", "2:1", *recorded))["yardstick"] == "clip"
    by_mine = json.loads(output("replay", "2:1", *recorded, "--yardstick", "human-like", "--reference", "clip"))
    assert (by_mine["yardstick"], by_mine["reference"]) == ("human-like", "clip")
    assert json.loads(output("tune", *recorded, "--folds", 2, "--budget", 0.9, "--out", "policy.json"))["policy"]
    lines = json.loads(output("leaderboard", "results", "--json"))
    assert {line["reference"] for line in lines["lines"]} == {"vqascore"}
    assert "final-image selection by clip" in output("leaderboard", "--reference", "human-like", "--format", "md")
    assert "2 models, 5 of 5 prompts" in output("report", "results/any", "--bench", "data/any", "--out", "page")
    sample = ["sample", PROMPTS[0], "--pipeline", sd15_folder, "--model", f"./{clip}", "--best-of", 3, "--steps", 4]
    output(*sample, "--policy", "policy.json", "--bench", "data/any", "--out", "image.png")
    assert Path("image.png").stat().st_size
    assert "human-like" in output("compare", "any/random", "any/judge")
    assert "no defects" in output("verify", "data/any")
    output("convert", "data/any", "data/tars", "--format", "webdataset")
    assert output("references", "data/tars") == output("references", "data/any")
    assert "scores/human-like.parquet" in output("publish", "data/any", "me/any", "--dry-run")

    code, _, err = run("compare", "results/any/judge.json", "other/any/random.json")
    assert (code, "choose a reference with --yardstick" in err) == (2, True)
    output("compare", "results/any/judge.json", "other/any/random.json", "--yardstick", "vqascore")
    code, _, err = run(*evaluate, "--yardstick", "nope")
    assert (code, "--yardstick takes clip or human-like or vqascore" in err) == (2, True)


def test_a_bench_without_clip_says_what_to_type(run: Run, sd15_folder: Path, tmp_path: Path) -> None:
    judge = save_clip(Path("judge"))
    Path("prompts.txt").write_text("\n".join(PROMPTS[:3]))
    build = ["build", "genai-bench", "--pipeline", sd15_folder, "--prompts", "prompts.txt", "--steps", 3]
    assert run(*build, "--candidates", 2, "--references", "", "--out", "data/bare")[0] == 0
    evaluate = ["evaluate", "--bench", "data/bare", "--model", "random"]
    code, _, err = run(*evaluate)
    assert (code, err.count("\n")) == (2, 1)
    assert "no references at data/bare/scores: nbench references data/bare --add clip,vqascore" in err
    assert run("references", "data/bare")[1] == "data/bare has no references: --add NAME=SCORER scores its images\n"
    assert run("references", "data/bare", "--add", f"other=./{judge}")[0] == 0

    note = "no reference clip in data/bare: final-image selection goes by each model's own final scores"
    code, out, err = run(*evaluate, "--json")
    assert (code, f"{note}; --yardstick takes other\n" in err) == (0, True)
    result = json.loads(Path("results/bare/random.json").read_text())
    assert result["yardsticks"]["other"]["chooser"] == "own"
    replay = ["replay", "2:1", "--bench", "data/bare", "--model", "random", "--n", 2, "--json"]
    code, out, err = run(*replay)
    assert (code, note in err) == (0, True)
    assert (json.loads(out)["reference"], json.loads(out)["yardstick"]) == ("other", "random at 3")
    code, out, err = run(*replay, "--yardstick", "other")
    assert (code, err, json.loads(out)["yardstick"]) == (0, "", "other")
    code, _, err = run(*replay, "--yardstick", "clip")
    assert (code, "--yardstick takes other" in err) == (2, True)
    assert run(*evaluate, "--yardstick", "other", "--json")[2].count(note) == 0
    assert "not clip" not in run("leaderboard")[2]
    code, _, err = run("leaderboard", "--yardstick", "clip")
    assert (code, "final-image selection by other, not clip" in err) == (2, True)
