"""Property tests of stages and waves: no budget is exceeded, and every run selects something."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbench.errors import NbenchError
from nbench.pipelines.padded_batch import padded
from nbench.sampling.policy import Policy, Stage, parse_policy
from nbench.sampling.waves import Rules, Waves, best, stages_of


def run(rules: Rules, scores: Any) -> tuple[Waves, list[int]]:
    """Run waves step by step as a pipeline does; `scores(candidate, position)`."""
    waves = Waves(rules)
    drawn: list[int] = []
    while numbers := waves.next():
        drawn += [] if waves.recalled else numbers
        living, done = list(numbers), 0
        if waves.recalled:
            assert set(numbers) <= set(drawn)
            stopped = rules.stages[waves.decided - 1].position
            done = min(stopped + (rules.calls_per_score > 0), rules.steps)
        for position in range(max(done, 1), rules.steps + 1):
            if position > done:
                waves.spent += padded(len(living), len(numbers)) if rules.compiled else len(living)
            for index, stage in enumerate(rules.stages):
                if (
                    living
                    and index >= waves.decided
                    and min(stage.position + (rules.calls_per_score > 0), rules.steps) == position
                ):
                    ahead = min(rules.calls_per_score, rules.steps - stage.position)  # the first is the run's own
                    waves.spent += max(0, ahead - 1) * len(living)
                    living = waves.decide(index, {candidate: scores(candidate, stage.position) for candidate in living})
            if not living:
                break
    return waves, drawn


def rules(policy: str, steps: int = 10, keep: int = 1, n: int = 6, **kwargs: Any) -> Rules:
    return Rules(stages_of(parse_policy(policy), steps, keep), steps, n, keep, **kwargs)


def test_one_wave_is_the_policy() -> None:
    waves, drawn = run(rules("4:3,8:1"), lambda candidate, position: candidate if position == 4 else -candidate)
    assert (drawn, waves.spent, waves.selected()) == ([0, 1, 2, 3, 4, 5], 6 * 4 + 3 * 4 + 1 * 2, [3])


@pytest.mark.parametrize("policy", ["4:1", "3:4,7:2", "10:1"])
@pytest.mark.parametrize("calls", [0, 1, 4])
def test_costs_are_the_policys(policy: str, calls: int) -> None:
    wave_rules = rules(policy, keep=parse_policy(policy).stages[-1].keep, calls_per_score=calls)
    waves, _ = run(wave_rules, lambda candidate, _: candidate)
    assert waves.spent == wave_rules.cost(6) == parse_policy(policy).rows(6, 10, calls_per_score=calls)


def test_survivors_beyond_keep_are_scored_at_the_end() -> None:
    assert stages_of(parse_policy("4:3"), 10, 1) == (Stage(4, 3), Stage(10, 1))
    assert stages_of(parse_policy("4:3,8:1"), 10, 2) == (Stage(4, 3), Stage(8, 2))


def test_waves_select_as_one_batch_does_and_hopeless_ones_end_early() -> None:
    scores = {0: 3.0, 1: 5.0, 2: 1.0, 3: 2.0, 4: 6.0, 5: 4.0}
    waves, drawn = run(rules("4:1", max_batch=2), lambda candidate, _: scores[candidate])
    assert waves.selected() == [4]
    assert drawn == list(range(6))
    assert waves.spent == (2 * 4 + 6) + 2 * 4 + (2 * 4 + 6)  # the second wave has none better than 5


def test_acceptance_draws_no_more() -> None:
    waves, drawn = run(rules("4:2,8:1", max_batch=2, accept=3.0), lambda candidate, _: candidate)
    assert (drawn, waves.selected()) == ([0, 1, 2, 3], [3])
    assert waves.spent == (2 * 8 + 2) + (2 * 4 + 6)


def test_a_bad_wave_is_drawn_anew_while_the_budget_lasts() -> None:
    wave_rules = rules("4:1", n=2, restart=4.5, budget=34)
    waves, drawn = run(wave_rules, lambda candidate, _: candidate)
    assert drawn == [0, 1, 2, 3, 4, 5]
    assert (waves.spent, waves.selected()) == (8 + 8 + 14, [5])
    waves, drawn = run(rules("4:1", n=2, restart=99.0, budget=25), lambda candidate, _: candidate)
    assert (drawn, waves.spent, waves.selected()) == ([0, 1, 2, 3], 8 + 14, [3])


def test_no_candidate_that_fell_short_is_lost() -> None:
    scores = {0: 1.0, 1: 3.0, 2: 2.0}
    waves, drawn = run(rules("4:1r9", n=1, most=3), lambda candidate, _: scores[candidate])
    assert (drawn, waves.selected(), waves.spent) == ([0, 1, 2], [1], 3 * 4 + 6)
    assert not waves.recalled
    assert not waves.next()
    # the last one is the best itself, and goes on at once
    waves, drawn = run(rules("4:1r9", n=1, most=2), lambda candidate, _: scores[candidate])
    assert (drawn, waves.selected(), waves.spent) == ([0, 1], [1], 2 * 4 + 6)
    # one that came further is better than one with a higher score where that one stopped
    waves, _ = run(rules("2:1r2,6:1r9", n=1, most=3), lambda candidate, at: scores[candidate] - (at == 6))
    assert (waves.selected(), waves.spent) == ([1], 2 + 6 + 6 + 4)
    waves, _ = run(rules("4:2r9", keep=2, n=2, most=4), lambda candidate, _: -candidate)
    assert (waves.selected(), waves.spent) == ([0, 1], 8 + 8 + 12)


def test_what_is_no_number_comes_last() -> None:
    assert best({0: math.nan, 1: -5.0, 2: 1.0, 3: 1.0}) == [2, 3, 1, 0]


@given(data=st.data())
def test_the_budget_is_never_exceeded_and_keep_come_out(data: st.DataObject) -> None:
    steps, n = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    keep = data.draw(st.integers(1, min(n, 3)))
    places = sorted(data.draw(st.sets(st.integers(1, steps), min_size=1, max_size=3)))
    keeps = sorted(data.draw(st.sets(st.integers(1, n), min_size=1, max_size=len(places))), reverse=True)
    policy = Policy(tuple(map(Stage, places, keeps)))
    optional_scores = st.one_of(st.none(), st.floats(-1, 1))
    budget = data.draw(st.integers(1, 200))
    try:
        wave_rules = Rules(
            stages_of(policy, steps, keep),
            steps,
            n,
            keep,
            data.draw(st.one_of(st.none(), st.integers(keep, 9))),
            data.draw(optional_scores),
            data.draw(optional_scores),
            budget,
            data.draw(st.integers(0, 1)),
            data.draw(st.booleans()),
        )
    except NbenchError as error:
        assert "is too small for an image" in str(error)  # noqa: PT017 - which budgets are too small is what is drawn
        return
    drawn_scores: dict[tuple[int, int], float] = {}
    numbers = st.one_of(st.floats(-1, 1), st.just(math.nan))

    def scores(candidate: int, position: int) -> float:
        return drawn_scores.setdefault((candidate, position), data.draw(numbers))

    waves, drawn = run(wave_rules, scores)
    assert waves.spent <= budget
    assert len(waves.selected()) == keep
    assert drawn == list(range(len(drawn)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"keep": 7}, "keep 7 of 6"),
        ({"keep": 3, "max_batch": 2}, "max_batch 2"),
        ({"restart": 0.5}, "set a budget too"),
        ({"policy": "4:3s2,6:1r.5"}, "copied at 4 cannot be recalled"),
        ({"policy": "4:3s2,6:1", "restart": 0.5, "budget": 200}, "restart before 4"),
        ({"budget": 9}, "give 10 or more for 10 steps"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        rules(**{"policy": "4:1", **arguments})


@given(
    values=st.lists(st.floats(-3, 3), min_size=2, max_size=8),
    rate=st.floats(0.1, 5),
    drawn=st.floats(0, 0.999),
    data=st.data(),
)
def test_particles_are_copied_as_often_as_their_weight_says(
    values: list[float], rate: float, drawn: float, data: st.DataObject
) -> None:
    count = len(values)
    keep = data.draw(st.integers(1, count))
    waves = Waves(rules(f"2:{keep}s{rate!r},8:1" if keep > 1 else f"2:1s{rate!r}", n=count))
    numbers = waves.next()
    kept = waves.decide(0, dict(zip(numbers, values, strict=True)))
    ancestors = waves.ancestors(0, kept, drawn)
    assert sorted(ancestors) == sorted(kept)
    weights = [math.exp(rate * value) for value in values]
    for number, weight in enumerate(weights):
        share = keep * weight / sum(weights)
        assert math.floor(share - 1e-6) <= list(ancestors.values()).count(number) <= math.ceil(share + 1e-6)
    assert all(ancestors[number] == number for number in kept if number in ancestors.values())


def test_only_what_scores_have_risen_since_the_last_resampling_counts() -> None:
    waves = Waves(rules("2:3s9,4:3s9,8:1", n=3))
    waves.next()
    waves.decide(0, {0: 0.0, 1: 0.0, 2: 5.0})
    assert set(waves.ancestors(0, [2, 0, 1], 0.5).values()) == {2}
    waves.decide(1, {0: 9.0, 1: 5.0, 2: 5.0})  # 0 is a copy of 2 and has risen by 4
    assert set(waves.ancestors(1, [0, 1, 2], 0.5).values()) == {0}


@pytest.mark.parametrize(
    ("scores", "sources"),
    [
        ([math.nan] * 4, [0, 1, 2, 3]),  # nothing is known of them: each goes on
        ([-math.inf, math.nan, -math.inf, -math.inf], [0, 1, 2, 3]),
        ([math.nan, 1.0, 1.0, -math.inf], [1, 1, 2, 2]),
        ([0.0, math.inf, 2.0, math.inf], [1, 1, 3, 3]),
    ],
)
def test_particles_with_scores_that_are_not_finite(scores: list[float], sources: list[int]) -> None:
    waves = Waves(rules("2:4s3,8:1", n=4))
    kept = waves.decide(0, dict(zip(waves.next(), scores, strict=True)))
    assert sorted(waves.ancestors(0, kept, 0.5).values()) == sources


@pytest.mark.parametrize("stages", ["2:4p.9w9,4:4p.1w9,6:1", "2:4p.9w9"])
def test_images_that_a_race_settles_early_are_in_the_order_of_their_scores(stages: str) -> None:
    waves = Waves(rules(stages, keep=2, n=4))
    living = list(waves.next())
    assert waves.undecided(0, living)
    living = waves.decide(0, {0: 0.0, 1: 0.5, 2: 0.1, 3: 0.9})
    for index in range(1, len(waves.rules.stages)):
        assert not waves.undecided(index, living)
    assert waves.selected() == [3, 1]


def test_several_images_are_scored_once_although_all_are_kept() -> None:
    waves = Waves(rules("2:2p.1w9,6:1", keep=2, n=2))
    assert waves.undecided(0, waves.next())
    waves.decide(0, {0: 0.1, 1: 0.2})
    assert not waves.undecided(1, [0, 1])
    assert waves.selected() == [1, 0]
