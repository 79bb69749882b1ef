"""`nbench sample` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbench import cli
from nbench.pipelines import find as pipelines
from nbench.shards.reader import open_bench
from nbench.shards.seeds import candidate_seed

PROMPT = "two red circles above one blue square"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object, command: str = "sample"
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["nbench", command, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_json_images_and_sheet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "image.png"
    given = (PROMPT, "--best-of", 4, "--policy", "2:3,4:1", "--steps", 6, "--seed", 7, "--keep", 2, "--out", out)
    code, told, err = run(monkeypatch, capsys, *given, "--show-candidates", "--json")
    assert (code, err) == (0, "")
    found = json.loads(told)
    assert list(found) == [
        "selected",
        "candidates",
        "denoiser_rows",
        "full_denoiser_rows",
        "seconds",
        "scorer_seconds",
    ]
    assert [one["seed"] for one in found["candidates"]] == [candidate_seed(7, PROMPT, i) for i in range(4)]
    assert all(set(one) == {"seed", "scores", "left_at"} for one in found["candidates"])
    fates = sorted((list(one["scores"]), one["left_at"] or 0) for one in found["candidates"])
    assert fates == [(["2"], 2), (["2", "4"], 0), (["2", "4"], 0), (["2", "4"], 4)]
    assert {one["seed"] for one in found["candidates"] if one["left_at"] is None} == set(found["selected"])
    final = {one["seed"]: one["scores"]["4"] for one in found["candidates"] if "4" in one["scores"]}
    assert found["selected"] == sorted(final, key=lambda seed: -final[seed])[:2]
    assert (found["denoiser_rows"], found["full_denoiser_rows"]) == (2 * (4 * 2 + 3 * 2 + 2 * 2), 2 * 4 * 6)
    assert sorted(path.name for path in out.parent.iterdir()) == ["image-2.png", "image-candidates.png", "image.png"]
    assert Image.open(out).size == (32, 32)


def test_words_and_a_policy_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"format_version": 1, "stages": [{"position": 1, "keep": 1}]}))
    out = tmp_path / "image.png"
    code, told, _ = run(
        monkeypatch, capsys, PROMPT, "--best-of", 2, "--policy", policy, "--steps", 2, "--out", out, "--model", "random"
    )
    assert code == 0
    assert told.startswith("6 of 8 denoiser rows (75%), ")
    assert told.endswith(f"written: {out}\n")


def test_options_of_the_pipeline_are_those_of_a_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, sd15_folder: Path
) -> None:
    """Another size, scheduler and negative prompt: the image that the build of the same options makes of the seed."""
    options: list[object] = ["--height", 24, "--width", 16, "--negative-prompt", "blue"]
    options += ["--scheduler", "DDIM", "--eta", 0.5]
    options += ["--pipeline-arg", "guidance_rescale=0.5", "--pipeline", sd15_folder, "--steps", 3, "--guidance", 4]
    out, prompts = tmp_path / "image.png", tmp_path / "prompts.txt"
    prompts.write_text(PROMPT + "\n")
    built = ("ncc", "--prompts", prompts, "--candidates", 2, "--out", tmp_path / "ncc", *options)
    assert run(monkeypatch, capsys, *built, command="build")[0] == 0
    (batch,) = open_bench(tmp_path / "ncc").batches((), images=True)
    assert batch.images is not None
    given = ("--model", "cfg-gap", "--policy", "2:1", "--best-of", 2, "--prompt-id", batch.prompt_ids[0])
    code, told, err = run(monkeypatch, capsys, PROMPT, *given, *options, "--out", out, "--vae-slicing", "--json")
    assert (code, err) == (0, "")
    made = batch.images[batch.seeds.index(json.loads(told)["selected"][0])]
    assert made.shape == (24, 16, 3)
    assert abs(np.asarray(Image.open(out)).astype(int) - made).max() <= 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--steps", 10), "policy 20:1: position 20 not in 0..10; move it earlier"),
        (("--policy", "later"), "no policy at later"),
        (("--out", "image.txt"), "no format of images is called '.txt'"),
        (("--model", "noisyclop"), "did you mean noisyclip?"),
        (("--model", "vqascore"), "vqascore reads finished images, of which position 20 has none: score at 50"),
        (("--keep", 7), "keep 7 of 6 candidates"),
        (("--budget", 10), "a budget of 10 calls makes no image: 50 steps take 50 or more"),
        (("--dtype", "int8"), "no dtype 'int8'"),
        (("--model", "oracle"), "oracle-clip reads reference:clip, which a run does not give"),
        (("--height", 0), "--height 0 is out of range"),
        (("--pipeline-arg", "colour=1"), "takes no colour: leave it out"),
        (("--pipeline-arg", "num_images_per_prompt=2"), "cannot be set: the number of candidates determines it"),
        (("--eta", 1), "takes no eta"),
        (("--revision", "main"), "pipeline shapes is a folder, which has no revisions"),
    ],
)
def test_what_a_person_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    given: tuple[str, object],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if given[0].startswith("--pipeline") or given[0] in ("--height", "--eta", "--revision"):
        monkeypatch.setattr(pipelines, "load_pipeline", None)  # refused before any weights are loaded
    code, told, err = run(monkeypatch, capsys, PROMPT, *given)
    assert (code, told, list(tmp_path.iterdir())) == (2, "", [])
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err
