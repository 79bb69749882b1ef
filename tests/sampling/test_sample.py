"""`nbench sample` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nbench import cli
from nbench.shards.seeds import candidate_seed

PROMPT = "two red circles above one blue square"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["nbench", "sample", *map(str, arguments)])
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
    ],
)
def test_what_a_person_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    given: tuple[object, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told, err = run(monkeypatch, capsys, PROMPT, *given)
    assert (code, told, list(tmp_path.iterdir())) == (2, "", [])
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err
