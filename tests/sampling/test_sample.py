"""`nbench sample` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbench.pipelines import find as pipelines
from nbench.shards.reader import open_bench
from nbench.shards.seeds import candidate_seed

from ..conftest import Run

PROMPT = "two red circles above one blue square"


def test_json_images_and_sheet(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "image.png"
    options = ("--best-of", 4, "--policy", "2:3,4:1", "--steps", 6, "--seed", 7, "--keep", 2, "--out", out)
    code, printed, err = run("sample", PROMPT, *options, "--show-candidates", "--json")
    assert (code, err) == (0, "")
    result = json.loads(printed)
    assert list(result) == [
        "selected",
        "candidates",
        "denoiser_rows",
        "full_denoiser_rows",
        "seconds",
        "scorer_seconds",
    ]
    candidates = result["candidates"]
    assert [candidate["seed"] for candidate in candidates] == [candidate_seed(7, PROMPT, i) for i in range(4)]
    assert all(set(candidate) == {"seed", "scores", "left_at"} for candidate in candidates)
    outcomes = sorted((list(candidate["scores"]), candidate["left_at"] or 0) for candidate in candidates)
    assert outcomes == [(["2"], 2), (["2", "4"], 0), (["2", "4"], 0), (["2", "4"], 4)]
    survivors = {candidate["seed"] for candidate in candidates if candidate["left_at"] is None}
    assert survivors == set(result["selected"])
    final = {candidate["seed"]: candidate["scores"]["4"] for candidate in candidates if "4" in candidate["scores"]}
    assert result["selected"] == sorted(final, key=lambda seed: -final[seed])[:2]
    assert (result["denoiser_rows"], result["full_denoiser_rows"]) == (2 * (4 * 2 + 3 * 2 + 2 * 2), 2 * 4 * 6)
    assert sorted(path.name for path in out.parent.iterdir()) == ["image-2.png", "image-candidates.png", "image.png"]
    assert Image.open(out).size == (32, 32)


def test_words_and_a_policy_file(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"format_version": 1, "stages": [{"position": 1, "keep": 1}]}))
    out = tmp_path / "image.png"
    options = ("--best-of", 2, "--policy", policy, "--steps", 2, "--out", out, "--model", "random")
    code, printed, _ = run("sample", PROMPT, *options)
    assert code == 0
    assert printed.startswith("6 of 8 denoiser rows (75%), ")
    assert printed.endswith(f"written: {out}\n")


@pytest.mark.parametrize(
    ("setting", "options"),
    [({"model": "x0-image"}, "--model x0-image"), ({"n": 6}, "--best-of 6"), ({"steps": 1000}, "--steps 1000")],
)
def test_a_policy_tuned_for_another_setting_is_refused(
    run: Run, tmp_path: Path, setting: dict[str, object], options: str
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"format_version": 1, "stages": [{"position": 1, "keep": 1}], **setting}))
    code, _, err = run("sample", PROMPT, "--policy", policy, "--best-of", 2, "--steps", 2, "--model", "random")
    assert (code, f"was tuned for {options}: give these, or its stages alone (--policy 1:1)" in err) == (2, True)


def test_options_of_the_pipeline_are_those_of_a_build(run: Run, tmp_path: Path, sd15_folder: Path) -> None:
    """With another size, scheduler and negative prompt, the image equals that of a build with the same options."""
    options: list[object] = ["--height", 24, "--width", 16, "--negative-prompt", "blue"]
    options += ["--scheduler", "DDIM", "--eta", 0.5]
    options += ["--pipeline-arg", "guidance_rescale=0.5", "--pipeline", sd15_folder, "--steps", 3, "--guidance", 4]
    out, prompts = tmp_path / "image.png", tmp_path / "prompts.txt"
    prompts.write_text(PROMPT + "\n")
    assert run("build", "ncc", "--prompts", prompts, "--candidates", 2, "--out", tmp_path / "ncc", *options).code == 0
    (batch,) = open_bench(tmp_path / "ncc").batches((), images=True)
    assert batch.images is not None
    options += ["--model", "cfg-gap", "--policy", "2:1", "--best-of", 2, "--prompt-id", batch.prompt_ids[0]]
    code, printed, err = run("sample", PROMPT, *options, "--out", out, "--vae-slicing", "--json")
    assert (code, err) == (0, "")
    built = batch.images[batch.seeds.index(json.loads(printed)["selected"][0])]
    assert built.shape == (24, 16, 3)
    assert abs(np.asarray(Image.open(out)).astype(int) - built).max() <= 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--steps", 10), "policy 20:1: position 20 not in 0..10; move it earlier"),
        (("--policy", "later"), "no policy at later"),
        (("--policy", "4:6p.05,8:1"), "(nbench replay 4:6p0.05,8:1 --bench BENCH --model MODEL --out policy.json)"),
        (("--out", "image.txt"), "unknown image format '.txt'"),
        (("--model", "noisyclop"), "did you mean noisyclip?"),
        (("--model", "vqascore"), "vqascore reads finished images, which position 20 does not have: score at 50"),
        (("--keep", 7), "keep 7 of 6 candidates"),
        (("--budget", 10), "a budget of 10 calls is too small for an image: give 50 or more for 50 steps"),
        (("--dtype", "int8"), "unknown dtype 'int8'"),
        (("--model", "oracle"), "oracle-clip reads reference:clip, which a running pipeline does not have"),
        (("--height", 0), "--height 0 is out of range"),
        (("--pipeline-arg", "colour=1"), "takes no colour: leave it out"),
        (("--pipeline-arg", "num_images_per_prompt=2"), "cannot be set: the number of candidates determines it"),
        (("--eta", 1), "takes no eta"),
        (("--revision", "main"), "pipeline shapes is a folder, which has no revisions"),
    ],
)
def test_what_a_user_can_fix_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    early = ("--height", "--eta", "--revision")
    if options[0].startswith("--pipeline") or options[0] in early or "p.05" in str(options[1]):
        monkeypatch.setattr(pipelines, "load_pipeline", None)  # refused before any weights are loaded
    code, printed, err = run("sample", PROMPT, *options)
    assert (code, printed, list(tmp_path.iterdir())) == (2, "", [])
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err
