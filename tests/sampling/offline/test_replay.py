"""Replay: figures against enumeration and plain arithmetic, random and oracle where they must be, budgets kept."""

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
from nbench.sampling.offline.replay import Replay, ReplayRow, replay, replay_budget, selections
from nbench.sampling.policy import parse_policy
from nbench.shards.scores import write_scores

from ...small_bench import make_bench
from ..conftest import recorded, slow_pick

STEPS, POSITIONS = 10, (2, 5, 8, 10)


def row(found: Replay, way: str) -> ReplayRow:
    return next(one for one in found.rows if one.way == way)


@pytest.mark.parametrize("n", [3, 5])
def test_figures_equal_enumeration(n: int) -> None:
    made = recorded(30, 5, POSITIONS, STEPS, ties=True)
    policy = parse_policy("2:2,8:1")
    found = replay(made, policy, n)
    prompts = range(30)
    chosen = np.mean([slow_pick(made, policy, n, p) for p in prompts])
    blind = made.reference.mean()
    judges = {name: replace(made, scores={STEPS: by}) for name, by in (("f", made.final), ("o", made.reference))}
    final, oracle = (np.mean([slow_pick(judges[j], parse_policy("10:1"), n, p) for p in prompts]) for j in "fo")

    ours = row(found, "policy")
    assert ours.selected.value == pytest.approx(chosen, abs=1e-12)
    assert ours.recovered_gain.value == pytest.approx((chosen - blind) / (final - blind), abs=1e-12)
    assert ours.oracle_gain.value == pytest.approx((chosen - blind) / (oracle - blind), abs=1e-12)
    assert ours.retention.value == pytest.approx(chosen / final, abs=1e-12)
    assert (ours.seen, ours.calls) == (n, n * 2 + 2 * 6 + 2)
    assert ours.share == ours.calls / (n * STEPS)
    assert [one.way for one in found.rows] == ["policy", "random", "best-of-n", "oracle"]
    assert row(found, "random").selected.value == pytest.approx(blind, abs=1e-12)
    assert row(found, "best-of-n").recovered_gain == (1.0, 1.0, 1.0)
    assert row(found, "oracle").oracle_gain == (1.0, 1.0, 1.0)
    assert found.exact
    assert found.left_out == 0


def test_selections_are_what_is_judged_and_equals_go_to_the_one_drawn_first() -> None:
    made = recorded(30, 5, POSITIONS, STEPS, ties=False)
    for text in ("5:1", "2:3,8:1", "2:4,5:2,10:1"):
        policy = parse_policy(text)
        chosen = selections(made.scores, policy, 5, STEPS)
        judged = replay(made, policy, 5).rows[0].selected.value
        assert judged == pytest.approx(made.reference[np.arange(30), chosen].mean(), abs=1e-12)
    few = selections(made.scores, parse_policy("3,2:2"), 5, STEPS)  # of the first three, and two of them are left at T
    for prompt, one in enumerate(few):
        second = np.argsort(-made.scores[2][prompt, :3])[:2]
        assert one == second[made.scores[STEPS][prompt, second].argmax()]
    assert selections({5: np.array([[1.0, 2.0, 2.0]])}, parse_policy("5:1"), 3, STEPS) == [1]


def test_random_scores_gain_nothing_and_the_reference_gains_all() -> None:
    made = recorded(800, 6, (5,), STEPS, ties=False)
    noise = replace(made, scores={5: np.random.default_rng(9).random(made.reference.shape)})
    gain = row(replay(noise, parse_policy("5:1"), 6), "policy").recovered_gain
    assert gain.low < 0 < gain.high < 0.2
    oracle = replace(made, scores={5: made.reference, 8: made.reference})
    assert row(replay(oracle, parse_policy("5:3,8:1"), 6), "policy").oracle_gain.value == pytest.approx(1.0)


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
    found = replay(recorded(20, 6, POSITIONS, STEPS, ties=False), policy, 6, costs)
    assert row(found, "policy").share == costs.of(policy, 6, STEPS) / costs.best_of(6, STEPS)
    with pytest.raises(NbenchError, match="0 or more"):
        Costs(score=-1)


@pytest.mark.parametrize("budget", [20, 31, 44.5, 80, 500])
@pytest.mark.parametrize("costs", [Costs(), Costs(score=0.3, decode=1.1, calls_per_score=1)])
def test_a_budget_is_spent_and_never_exceeded(budget: float, costs: Costs) -> None:
    made, policy = recorded(40, 12, POSITIONS, STEPS, ties=False), parse_policy("2:2,5:1")
    found = replay_budget(made, policy, budget, costs)
    for one in found.rows:
        assert one.calls <= budget
        assert one.seen == min(one.affords, 12)
    ours, plain = row(found, "policy"), row(found, "best-of-n")
    assert costs.of(policy, ours.affords, STEPS) <= budget + 1e-9 < costs.of(policy, ours.affords + 1, STEPS)
    assert costs.best_of(plain.affords, STEPS) <= budget + 1e-9 < costs.best_of(plain.affords + 1, STEPS)
    alone = row(replay(made, policy, ours.seen, costs), "policy")
    assert ours.selected == alone.selected
    whatever = replay_budget(made, replace(policy, drawn=3), budget, costs)
    assert whatever.to_dict() == found.to_dict()  # the budget decides how many are drawn


def test_what_does_not_fit_is_refused() -> None:
    made = recorded(10, 4, POSITIONS, STEPS, ties=False)
    for policy, n, reason in (("3:1", 4, "position 3 not in"), ("5:1", 5, "take 1..4"), ("5:4", 3, "keep 4 of 3")):
        with pytest.raises(NbenchError, match=reason):
            replay(made, parse_policy(policy), n)
    for budget in (9.0, np.inf, np.nan):
        with pytest.raises(NbenchError, match="raise it"):
            replay_budget(made, parse_policy("5:1"), budget)
    with pytest.raises(NbenchError, match="cost nothing"):
        replay_budget(replace(made, scores=made.scores | {0: made.final}), parse_policy("0:1"), 30)


def tables(folder: Path, made: Recorded) -> tuple[Path, Path]:
    """As two tables in shuffled order, with columns that do not count and a corrupted caption's rows."""
    prompts, candidates = np.indices(made.reference.shape).reshape(2, -1)
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
        for k, values in made.scores.items()
        for caption in ("prompt", "subject")
    ]
    scores = pa.concat_tables(parts)
    scores = scores.take(np.random.default_rng(0).permutation(len(scores)))
    pq.write_table(scores, folder / "scores.parquet")
    truth = pa.table({"score": made.reference.ravel(), "candidate": candidates, "prompt_id": ids, "note": ids})
    pq.write_table(truth, folder / "truth.parquet")
    return folder / "scores.parquet", folder / "truth.parquet"


def test_the_command_on_two_tables(tmp_path: Path) -> None:
    made = recorded(25, 5, POSITIONS, STEPS, ties=False)
    paths = list(map(str, tables(tmp_path, made)))
    said = CliRunner().invoke(app, ["replay", "2:2,8:1", *paths, "--n", "4", "--json"])
    told = json.loads(said.stdout)
    wanted = replay(replace(made, final=made.scores[10]), parse_policy("2:2,8:1"), 4)
    assert told["yardstick"] == "scores at 10"
    assert told["rows"][0]["recovered_gain"]["value"] == pytest.approx(row(wanted, "policy").recovered_gain.value)
    with pytest.raises(NbenchError, match="position 3 not in the scores of scores: they have 2, 5, 8, 10"):
        from_tables(Path(paths[0]), Path(paths[1]), positions=[2, 3])
    said = CliRunner().invoke(app, ["replay", "2:1", *paths, "--flops", "300", "--step-flops", "10", "--json"])
    assert (json.loads(said.stdout)["budget"], json.loads(said.stdout)["n"]) == (30, 5)  # 5 affords 11: 2 x 11 + 8
    assert json.loads(said.stdout)["rows"][0]["affords"] == 11


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

    found = from_bench(bench.path, "mine", tmp_path / "results")
    assert (found.reference_name, found.yardstick, found.steps) == ("vqascore", "clip", 10)
    np.testing.assert_array_equal(found.final, clip)
    told = replay(found, parse_policy("5:1"), 4)
    assert (told.n_prompts, told.left_out) == (39, 1)  # one candidate failed
    whole = np.isfinite(truth.quality).all(-1)
    chosen = truth.quality[whole][np.arange(39), truth.noisy[whole].argmax(-1)].mean()
    assert row(told, "policy").selected.value == pytest.approx(chosen, abs=1e-12)
    assert from_bench(bench.path, "mine", tmp_path / "results", "clip").reference_name == "clip"
    with pytest.raises(NbenchError, match="position 7 not in the scores of mine: they have 5, 10"):
        from_bench(bench.path, "mine", tmp_path / "results", positions=[7])
    for model, reference, reason in (
        ("stale", None, "scores another build"),
        ("absent", None, "no scores of absent in .*: there are .*; nbench evaluate"),
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
