"""Policies: how they are written and read, what they refuse, and their cost counted candidate by candidate."""

import json
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.sampling.policy import Policy, PolicyFile, PolicyStage, Stage, parse_policy, read_policy, write_policy


def test_text_and_back() -> None:
    policy = parse_policy(" 10:3, 20:1")
    assert policy == Policy((Stage(10, 3), Stage(20, 1)))
    assert parse_policy(str(policy)) == policy
    few = parse_policy("4, 10:3,20:1")
    assert few == Policy(policy.stages, drawn=4)
    assert parse_policy(str(few)) == few
    for text in ("4:6p.05,6:6p.1w3.5+-11e2,8:1", "1,8:1r-.25", "2,3:2p.2w1r.5,8:1", "4:6s2.5,8:6s2,9:1"):
        assert parse_policy(str(parse_policy(text))) == parse_policy(text)
        assert not parse_policy(text).fixed
    assert parse_policy("6:6p.1w-3.5").stages == (Stage(6, 6, chance=0.1, weights=(-3.5,)),)


def test_fewer_candidates_cost_what_so_many_cost() -> None:
    few, all_ = parse_policy("4,10:3,20:1"), parse_policy("10:3,20:1")
    assert (few.of(6), few.alive(6)) == (4, all_.alive(4))
    assert few.rows(6, 50, 1) == all_.rows(4, 50, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("20", "not understood"),
        ("20:1,", "not understood"),
        ("20:1:3", "not understood"),
        ("6,4", "not understood"),
        ("6,4,20:1", "not understood"),
        ("2,20:3,30:1", "keep 3 of 2"),
        ("20:0", "keeps 1 or more"),
        ("20:3,10:1", "later than 20"),
        ("20:3p2", "a chance is in"),
        ("20:3pw3", "not understood"),
        ("20:3p.1w2+3", "more weights"),
        ("20:3p.1,30:4p.1", "at most 3 candidates"),
        ("20:3s0", "to resample"),
        ("20:3p.1s2", "to resample"),
        ("20:3,20:1", "later than 20"),
        ("10:2,20:2", "fewer candidates than 2"),
        ("10:1,20:2", "fewer candidates than 1"),
        ("-1:2", "no policy at -1:2"),
        ("nowhere.json", "no policy at nowhere.json"),
        ("", "no policy at"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        parse_policy(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("51:1", r"51 not in 0\.\.50"), ("20:7", "cannot keep 7 of 6"), ("7,20:1", "cannot draw 7 of 6")],
)
def test_a_policy_must_fit(text: str, reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        parse_policy(text).rows(6, 50)


@pytest.mark.parametrize("text", ["0:1", "20:1", "50:1", "10:3,20:1", "4:5,10:3,49:2,50:1", "20:6"])
@pytest.mark.parametrize("reads_x0", [0, 1])
def test_rows_equal_a_count_of_every_step_of_every_candidate(text: str, reads_x0: int) -> None:
    policy, alive, rows, due = parse_policy(text), 6, 0, 0
    for step in range(50):
        for stage in policy.stages:
            if stage.position == step and not reads_x0:
                alive = stage.keep
            if stage.position == step and reads_x0:
                due = stage.keep
        rows += alive
        if due:
            alive, due = due, 0
    assert policy.rows(6, 50, reads_x0) == rows


def test_file_and_back(tmp_path: Path) -> None:
    file = PolicyFile(stages=[PolicyStage(position=10, keep=3), PolicyStage(position=20, keep=1)], n=6, steps=50)
    write_policy(tmp_path / "out/policy.json", file)
    assert read_policy(tmp_path / "out/policy.json") == file
    assert parse_policy(str(tmp_path / "out/policy.json")) == parse_policy("10:3,20:1")
    race = parse_policy("3,4:3p.05w9,6:3p.05w2+7r.3,8:1")
    write_policy(tmp_path / "race.json", file.model_copy(update={"stages": PolicyStage.of(race), "drawn": 3}))
    assert parse_policy(str(tmp_path / "race.json")) == race
    assert json.loads((tmp_path / "race.json").read_text())["stages"][2] == {"position": 8, "keep": 1}
    write_policy(tmp_path / "few.json", file.model_copy(update={"drawn": 4}))
    assert parse_policy(str(tmp_path / "few.json")) == parse_policy("4,10:3,20:1")
    assert set(json.loads((tmp_path / "out/policy.json").read_text())) == {
        *("format_version", "stages", "n", "drawn", "steps", "model", "bench_fingerprint", "budget", "expected")
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a policy file"),
        ('{"stages": [{"position": "20", "keep": 1}]}', r"stages\.0\.position"),
        ('{"stages": [{"position": 20, "keep": 1}], "extra": 1}', "extra"),
        ('{"stages": [{"position": 20, "keep": 0}]}', r"stages\.0\.keep"),
        ('{"format_version": 2, "stages": [{"position": 20, "keep": 1}]}', "format_version"),
        ('{"stages": []}', "has no stages"),
        ('{"stages": [{"position": 20, "keep": 3}], "drawn": 2}', "keep 3 of 2"),
        ('{"stages": [{"position": 20, "keep": 2}, {"position": 10, "keep": 1}]}', "later than 20"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(content)
    with pytest.raises(NbenchError, match=reason):
        parse_policy(str(path))
