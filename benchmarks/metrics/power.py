"""How small a difference a number of prompts can show: power of a paired test (Cohen 1988, normal approximation)."""

from __future__ import annotations

import math

from scipy.special import ndtri

from ...errors import NbenchError, check_range

SIGNIFICANT, POWER = 0.05, 0.8
_FACTOR = float(ndtri(1 - SIGNIFICANT / 2) + ndtri(POWER))


def smallest_difference(spread: float, n_prompts: int) -> float:
    """The difference in mean that a two-sided paired test over `n_prompts` shows at p < 0.05 with 80 % power.

    spread: standard deviation over prompts of the differences.

    >>> round(smallest_difference(0.6, 200), 3)
    0.119
    """
    return _FACTOR * spread / math.sqrt(n_prompts)


def prompts_to_show(difference: float, candidates: int) -> int:
    """Prompts that show a `difference` in within-prompt Spearman between two models that err independently.

    The Spearman of n unrelated scores has variance 1 / (n - 1) (Kendall & Gibbons 1990), the difference of two such
    twice that. Models that err alike, or agree well with the reference, need fewer.

    Raises:
        NbenchError: `difference` is not in 0..2 (0 excluded), or there are fewer than two candidates.

    >>> prompts_to_show(0.03, 6)
    3489
    """
    check_range("--mde", difference, 1e-4, 2)
    if candidates < 2:
        raise NbenchError("--mde needs candidates to choose among: give --candidates 2 or more")
    return math.ceil((_FACTOR / difference) ** 2 * 2 / (candidates - 1))
