"""Expectations equal an enumeration of all subsets and all tie-breaks."""

from dataclasses import replace

import numpy as np
import pytest

from nbench.sampling.offline.config import Costs
from nbench.sampling.offline.expectation import expected_best, expected_selection, is_exact
from nbench.sampling.offline.replay import policy_outcomes
from nbench.sampling.policy import parse_policy

from ..conftest import recorded, slow_pick

POSITIONS = (0, 4, 7, 10)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("policy", "n"), [("4:1", 5), ("4:2,7:1", 5), ("0:3,4:2,10:1", 4), ("7:3", 5), ("4:4,7:2", 4)])
def test_picks_equal_enumeration(policy: str, n: int, ties: bool) -> None:
    record = recorded(12, 5, POSITIONS, 10, ties)
    expected = [slow_pick(record, parse_policy(policy), n, prompt) for prompt in range(12)]
    np.testing.assert_allclose(
        policy_outcomes(record, parse_policy(policy), n, Costs()).picked, expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("ties", [False, True])
def test_candidates_that_cannot_be_used_are_never_drawn(ties: bool) -> None:
    record = recorded(8, 6, POSITIONS, 10, ties)
    record.reference[0, 2] = np.nan
    record.scores[4][1, [0, 5]] = np.nan
    record.reference[2, :3] = np.nan
    record = record.whole()
    policy = parse_policy("4:2,7:1")
    picks = policy_outcomes(record, policy, 4, Costs()).picked
    expected = [slow_pick(record, policy, 4, prompt) for prompt in (0, 1, 3)]
    np.testing.assert_allclose(picks[[0, 1, 3]], expected, rtol=0, atol=1e-12)
    assert np.isnan(picks[2])  # three are left of four


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_closed_form_equals_enumeration(n: int, ties: bool) -> None:
    record = recorded(10, 5, (4,), 10, ties)
    record.reference[3, 1] = np.nan
    record = record.whole()
    best = expected_best(record.scores[4], record.reference, n)
    for prompt in [0, 1, 2, *([3] if n < 5 else []), 4]:
        assert best[prompt] == pytest.approx(slow_pick(record, parse_policy("4:1"), n, prompt), abs=1e-12)
    assert np.isnan(best[3]) == (n == 5)


def test_where_subsets_are_too_many_draws_come_near_the_closed_form() -> None:
    record = recorded(300, 30, (4,), 10, ties=True)
    assert not is_exact([record.scores[4]], 12, [1])
    drawn = expected_selection([record.scores[4]], [1], record.reference, 12)
    exact = expected_best(record.scores[4], record.reference, 12)
    error = drawn - exact  # of 256 draws of values in 0..3
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    assert 0 < error.std() < 0.1


def test_all_of_many_candidates_are_one_exact_run() -> None:
    record = recorded(5, 30, (4, 7), 10, ties=False)
    picks = policy_outcomes(record, parse_policy("4:10,7:1"), 30, Costs()).picked
    for prompt in range(5):
        kept = np.argsort(-record.scores[4][prompt])[:10]
        assert picks[prompt] == record.reference[prompt][kept[record.scores[7][prompt][kept].argmax()]]


def test_a_large_number_is_drawn_alike_each_time() -> None:
    record = replace(recorded(20, 25, (4, 7), 10, ties=True))
    first, again = (policy_outcomes(record, parse_policy("4:6,7:1"), 12, Costs()).picked for _ in range(2))
    np.testing.assert_array_equal(first, again)
