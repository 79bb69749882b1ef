"""Baselines without a model, as figures: a random pick, final-image selection, the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..metrics.declaration import CI, or_none
from ..metrics.rows import Yardstick
from ..metrics.selection import cost_steps, recovered_gain, retention


@dataclass(frozen=True)
class YardstickLine:
    """Defined figures and intervals by name; position: where the candidate is selected."""

    name: str
    position: int
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def yardstick_lines(mark: Yardstick, n_candidates: int, steps: int) -> dict[str, YardstickLine]:
    """The lines `random`, `final` and `oracle`, without the undefined ones."""
    every = cost_steps(n_candidates, steps, steps)
    choices: dict[str, tuple[str, int, int, float | None, CI]] = {
        "random": ("random pick", 0, steps, mark.random, mark.random_ci),
        "final": (
            f"final-image selection{f' by {mark.chooser}' if mark.chooser else ''}",
            steps,
            every,
            mark.final,
            mark.final_ci,
        ),
        "oracle": ("oracle", steps, every, mark.oracle, mark.oracle_ci),
    }
    return {
        key: YardstickLine(
            name,
            position,
            {"best_of_n": value, "cost_steps": float(cost)} | _shares(mark, value),
            {} if interval is None else {"best_of_n": interval},
        )
        for key, (name, position, cost, value, interval) in choices.items()
        if value is not None
    }


def _shares(mark: Yardstick, value: float) -> dict[str, float]:
    random, final, oracle = (np.nan if mean is None else mean for mean in (mark.random, mark.final, mark.oracle))
    shares = {
        "retention": retention(value, final),
        "recovered_gain": recovered_gain(value, random, final),
        "oracle_gain": recovered_gain(value, random, oracle),
    }
    return {name: figure for name, share in shares.items() if (figure := or_none(share)) is not None}
