"""Replay: figures equal enumeration and plain arithmetic, random and oracle are at 0 and 1, budgets are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from nbench.cli import app
from nbench.errors import NbenchError
from nbench.sampling.offline.config import Costs
from nbench.sampling.offline.recorded_scores import Recorded, from_bench, from_tables
from nbench.sampling.offline.replay import Replay, ReplayRow, foretold, replay, replay_budget
from nbench.sampling.policy import parse_policy
from nbench.shards.scores import write_scores

from ...small_bench import make_bench
from ..conftest import recorded, slow_pick

STEPS, POSITIONS = 10, (2, 5, 8, 10)


def row(replayed: Replay, way: str) -> ReplayRow:
    return next(each for each in replayed.rows if each.way == way)


@pytest.mark.parametrize("n", [3, 5])
def test_figures_equal_enumeration(n: int) -> None:
    record = recorded(30, 5, POSITIONS, STEPS, ties=True)
    policy = parse_policy("2:2,8:1")
    replayed = replay(record, policy, n)
    prompts = range(30)
    chosen = np.mean([slow_pick(record, policy, n, p) for p in prompts])
    random = record.reference.mean()
    judges = {name: replace(record, scores={STEPS: by}) for name, by in (("f", record.final), ("o", record.reference))}
    final, oracle = (np.mean([slow_pick(judges[j], parse_policy("10:1"), n, p) for p in prompts]) for j in "fo")

    policy_row = row(replayed, "policy")
    assert policy_row.selected.value == pytest.approx(chosen, abs=1e-12)
    assert policy_row.recovered_gain.value == pytest.approx((chosen - random) / (final - random), abs=1e-12)
    assert policy_row.oracle_gain.value == pytest.approx((chosen - random) / (oracle - random), abs=1e-12)
    assert policy_row.retention.value == pytest.approx(chosen / final, abs=1e-12)
    assert (policy_row.seen, policy_row.calls) == (n, n * 2 + 2 * 6 + 2)
    assert policy_row.share == policy_row.calls / (n * STEPS)
    assert [each.way for each in replayed.rows] == ["policy", "random", "best-of-n", "oracle"]
    assert row(replayed, "random").selected.value == pytest.approx(random, abs=1e-12)
    assert row(replayed, "best-of-n").recovered_gain == (1.0, 1.0, 1.0)
    assert row(replayed, "oracle").oracle_gain == (1.0, 1.0, 1.0)
    assert replayed.exact
    assert replayed.left_out == 0


def test_selections_are_what_is_judged_and_equals_go_to_the_one_drawn_first() -> None:
    record = recorded(30, 5, POSITIONS, STEPS, ties=False)
    for text in ("5:1", "2:3,8:1", "2:4,5:2,10:1"):
        policy = parse_policy(text)
        chosen = foretold(record.scores, policy, 5, STEPS)[0]
        judged = replay(record, policy, 5).rows[0].selected.value
        assert judged == pytest.approx(record.reference[np.arange(30), chosen].mean(), abs=1e-12)
    few = foretold(record.scores, parse_policy("3,2:2"), 5, STEPS)[0]  # of the first three, two reach T
    for prompt, selected in enumerate(few):
        second = np.argsort(-record.scores[2][prompt, :3])[:2]
        assert selected == second[record.scores[STEPS][prompt, second].argmax()]
    assert foretold({5: np.array([[1.0, 2.0, 2.0]])}, parse_policy("5:1"), 3, STEPS)[0] == [1]


def test_random_scores_gain_nothing_and_the_reference_gains_all() -> None:
    record = recorded(800, 6, (5,), STEPS, ties=False)
    noise = replace(record, scores={5: np.random.default_rng(9).random(record.reference.shape)})
    gain = row(replay(noise, parse_policy("5:1"), 6), "policy").recovered_gain
    assert gain.low < 0 < gain.high < 0.2
    oracle = replace(record, scores={5: record.reference, 8: record.reference})
    assert row(replay(oracle, parse_policy("5:3,8:1"), 6), "policy").oracle_gain.value == pytest.approx(1.0)


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    truth = row(replay(recorded(20_000, 4, (5,), STEPS, ties=False, seed=1), parse_policy("5:1"), 4), "policy")
    gains = (
        row(
            replay(recorded(60, 4, (5,), STEPS, ties=False, seed=seed), parse_policy("5:1"), 4), "policy"
        ).recovered_gain
        for seed in range(2, 32)
    )
    covered = sum(gain.low <= truth.recovered_gain.value <= gain.high for gain in gains)
    assert covered >= 12  # of 15 at 95 %: fewer by chance once in 200


def test_costs_count_scores_and_decodes() -> None:
    policy, costs = parse_policy("2:3,5:1"), Costs(score=0.5, decode=2, calls_per_score=1)
    calls = 6 * 3 + 3 * 3 + 1 * 4  # steps 0..2 of all, 3..5 of three, 6..9 of one
    assert costs.of(policy, 6, STEPS) == calls + 0.5 * (6 + 3) + 2
    assert costs.best_of(6, STEPS) == 6 * (STEPS + 0.5 + 2)
    replayed = replay(recorded(20, 6, POSITIONS, STEPS, ties=False), policy, 6, costs)
    assert row(replayed, "policy").share == costs.of(policy, 6, STEPS) / costs.best_of(6, STEPS)
    with pytest.raises(NbenchError, match="0 or more"):
        Costs(score=-1)


@pytest.mark.parametrize("budget", [20, 31, 44.5, 80, 500])
@pytest.mark.parametrize("costs", [Costs(), Costs(score=0.3, decode=1.1, calls_per_score=1)])
def test_a_budget_is_spent_and_never_exceeded(budget: float, costs: Costs) -> None:
    record, policy = recorded(40, 12, POSITIONS, STEPS, ties=False), parse_policy("2:2,5:1")
    replayed = replay_budget(record, policy, budget, costs)
    for each in replayed.rows:
        assert each.calls <= budget
        assert each.seen == min(each.affords, 12)
    policy_row, plain = row(replayed, "policy"), row(replayed, "best-of-n")
    assert (
        costs.of(policy, policy_row.affords, STEPS) <= budget + 1e-9 < costs.of(policy, policy_row.affords + 1, STEPS)
    )
    assert costs.best_of(plain.affords, STEPS) <= budget + 1e-9 < costs.best_of(plain.affords + 1, STEPS)
    alone = row(replay(record, policy, policy_row.seen, costs), "policy")
    assert policy_row.selected == alone.selected
    whatever = replay_budget(record, replace(policy, drawn=3), budget, costs)
    assert whatever.to_dict() == replayed.to_dict()  # the budget decides how many are drawn


def test_what_does_not_fit_is_refused() -> None:
    record = recorded(10, 4, POSITIONS, STEPS, ties=False)
    for policy, n, reason in (("3:1", 4, "position 3 not in"), ("5:1", 5, "take 1..4"), ("5:4", 3, "keep 4 of 3")):
        with pytest.raises(NbenchError, match=reason):
            replay(record, parse_policy(policy), n)
    for budget in (9.0, np.inf, np.nan):
        with pytest.raises(NbenchError, match="raise it"):
            replay_budget(record, parse_policy("5:1"), budget)
    with pytest.raises(NbenchError, match="cost nothing"):
        replay_budget(replace(record, scores=record.scores | {0: record.final}), parse_policy("0:1"), 30)


def tables(folder: Path, record: Recorded) -> tuple[Path, Path]:
    """Write `record` as two shuffled tables, with unused columns and the rows of a corrupted caption."""
    prompts, candidates = np.indices(record.reference.shape).reshape(2, -1)
    ids = [f"p{prompt}" for prompt in prompts]
    parts = [
        pa.table(
            {
                "prompt_id": ids,
                "candidate": candidates,
                "position": np.full(len(ids), k),
                "caption": [caption] * len(ids),
                "score": values.ravel() if caption == "prompt" else -values.ravel(),
            }
        )
        for k, values in record.scores.items()
        for caption in ("prompt", "subject")
    ]
    scores = pa.concat_tables(parts)
    scores = scores.take(np.random.default_rng(0).permutation(len(scores)))
    pq.write_table(scores, folder / "scores.parquet")
    truth = pa.table({"score": record.reference.ravel(), "candidate": candidates, "prompt_id": ids, "note": ids})
    pq.write_table(truth, folder / "truth.parquet")
    return folder / "scores.parquet", folder / "truth.parquet"


def test_the_command_on_two_tables(tmp_path: Path) -> None:
    record = recorded(25, 5, POSITIONS, STEPS, ties=False)
    paths = list(map(str, tables(tmp_path, record)))
    outcome = CliRunner().invoke(app, ["replay", "2:2,8:1", *paths, "--n", "4", "--json"])
    printed = json.loads(outcome.stdout)
    expected = replay(replace(record, final=record.scores[10]), parse_policy("2:2,8:1"), 4)
    assert printed["yardstick"] == "scores at 10"
    assert printed["rows"][0]["recovered_gain"]["value"] == pytest.approx(row(expected, "policy").recovered_gain.value)
    with pytest.raises(NbenchError, match="position 3 not in the scores of scores: they have 2, 5, 8, 10"):
        from_tables(Path(paths[0]), Path(paths[1]), positions=[2, 3])
    outcome = CliRunner().invoke(app, ["replay", "2:1", *paths, "--flops", "300", "--step-flops", "10", "--json"])
    assert (json.loads(outcome.stdout)["budget"], json.loads(outcome.stdout)["n"]) == (
        30,
        5,
    )  # 5 affords 11: 2 x 11 + 8
    assert json.loads(outcome.stdout)["rows"][0]["affords"] == 11


def test_a_bench_and_its_evaluation(tmp_path: Path) -> None:
    bench, truth = make_bench(tmp_path / "small")
    prompts, candidates = (cells.ravel().tolist() for cells in np.indices(truth.quality.shape))
    rng = np.random.default_rng(0)

    def write(path: Path, values: dict[int, np.ndarray], fingerprint: str) -> None:
        columns = [
            pa.table(
                {
                    "prompt_id": [f"p{prompt:02d}" for prompt in prompts],
                    "candidate": candidates,
                    "position": np.full(len(prompts), k),
                    "caption": ["prompt"] * len(prompts),
                    "score": by.ravel(),
                    "status": ["ok"] * len(prompts),
                }
            )
            for k, by in values.items()
        ]
        write_scores(path, pa.concat_tables(columns), {"bench_fingerprint": fingerprint, "scorer_fingerprint": "s"})

    clip = truth.quality + rng.normal(0, 0.1, truth.quality.shape)
    scores = {5: truth.noisy, 10: truth.quality}
    write(bench.path / "scores/clip.parquet", {10: clip}, bench.info.fingerprint)
    write(bench.path / "scores/vqascore.parquet", {10: truth.quality}, bench.info.fingerprint)
    write(tmp_path / "results/small/mine.parquet", scores, bench.info.fingerprint)
    write(tmp_path / "results/small/stale.parquet", scores, "another")

    record = from_bench(bench.path, "mine", tmp_path / "results")
    assert (record.reference_name, record.yardstick, record.steps) == ("vqascore", "clip", 10)
    np.testing.assert_array_equal(record.final, clip)
    replayed = replay(record, parse_policy("5:1"), 4)
    assert (replayed.n_prompts, replayed.left_out) == (39, 1)  # one candidate failed
    whole = np.isfinite(truth.quality).all(-1)
    chosen = truth.quality[whole][np.arange(39), truth.noisy[whole].argmax(-1)].mean()
    assert row(replayed, "policy").selected.value == pytest.approx(chosen, abs=1e-12)
    assert from_bench(bench.path, "mine", tmp_path / "results", "clip").reference_name == "clip"
    with pytest.raises(NbenchError, match="position 7 not in the scores of mine: they have 5, 10"):
        from_bench(bench.path, "mine", tmp_path / "results", positions=[7])
    for model, reference, reason in (
        ("stale", None, "scores another build"),
        ("absent", None, "no scores of absent in .*: available: .*; nbench evaluate"),
        ("mine", "human", "no reference human"),
    ):
        with pytest.raises(NbenchError, match=reason):
            from_bench(bench.path, model, tmp_path / "results", reference)


def test_tables_that_do_not_do_are_refused(tmp_path: Path) -> None:
    scores, truth = tables(tmp_path, recorded(5, 3, (5,), STEPS, ties=False))
    twice = pq.read_table(truth)
    pq.write_table(pa.concat_tables([twice, twice.slice(4, 1)]), tmp_path / "twice.parquet")
    with pytest.raises(NbenchError, match="prompt_id p1, candidate 1 more than once"):
        from_tables(scores, tmp_path / "twice.parquet")
    with pytest.raises(NbenchError, match="no column position"):
        from_tables(truth, truth, steps=10)
    pq.write_table(twice.set_column(2, "prompt_id", [[f"q{i}" for i in range(15)]]), tmp_path / "other.parquet")
    with pytest.raises(NbenchError, match="no image has a value in both tables"):
        from_tables(scores, tmp_path / "other.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(NbenchError, match="cannot read"):
        from_tables(tmp_path / "junk.parquet", truth)
    with pytest.raises(NbenchError, match="no file at"):
        from_tables(scores, tmp_path / "absent.parquet")
