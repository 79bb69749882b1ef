"""Which models of a leaderboard cannot be told apart, and the smallest difference that its prompts can show.

Groups are a compact letter display (Piepho 2004, doi 10.1198/1061860043515): two models share a letter if their paired
difference is not significant after Holm's correction over all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from string import ascii_letters

import numpy as np
import pyarrow as pa

from ...errors import NbenchError, reason_of
from ...shards.atomic import write_out
from ...shards.scores import SCORE_SCHEMA, read_scores, scores_at, scores_metadata
from ..metrics import best_of_n, kendall, spearman
from ..metrics.arrays import Array, mean_over_prompts
from ..metrics.power import SIGNIFICANT, smallest_difference
from ..metrics.statistics import holm, paired_test
from .result_file import EvaluationResult

VALUES: dict[str, Callable[[Array, Array], Array]] = {
    "spearman": spearman,
    "kendall": kendall,
    "best_of_n": best_of_n,
    "retention": best_of_n,
    "recovered_gain": best_of_n,
}
"""The value per prompt that models are compared by, for each figure that has one; gains differ as their Best-of-N."""


@dataclass(frozen=True)
class Contest:
    """Models on one bench and reference, compared pair by pair.

    Attributes:
        groups: by model, the letters of its groups, "a" the group of the best.
        n_prompts: with a value for every model.
        smallest: the difference that a paired test of so many prompts shows with 80 % power at p < 0.05, in units of
            the figure, for the median pair of models; None for one model.
    """

    groups: Mapping[str, str]
    n_prompts: int
    smallest: float | None


def contest(values: Mapping[str, Array], unit: float = 1.0) -> Contest:
    """Compare models by their values per prompt, float [P] each, higher is better; unit: values per unit of the figure.

    >>> better, worse = np.arange(40.0), np.arange(40.0) - 1 + np.arange(40) % 2
    >>> dict(contest({"x": worse, "y": better, "z": better}).groups)
    {'y': 'a', 'z': 'a', 'x': 'b'}
    """
    stacked = np.array(list(values.values()))
    columns = dict(zip(values, np.where(np.isfinite(stacked).all(0), stacked, np.nan), strict=True))
    means = {model: mean_over_prompts(column[:, None])[0] for model, column in columns.items()}
    order = sorted(columns, key=lambda model: -np.nan_to_num(means[model], nan=-np.inf))
    n_prompts = int(np.isfinite(next(iter(columns.values()))).sum()) if columns else 0
    pairs = list(combinations(order, 2))
    if not pairs:
        return Contest(dict.fromkeys(order, "a"), n_prompts, None)
    first, second = (np.stack([columns[pair[side]] for pair in pairs], axis=1) for side in (0, 1))
    p_values = holm(paired_test(first, second))
    apart = {frozenset(pair) for pair, p in zip(pairs, p_values, strict=True) if p < SIGNIFICANT}
    if n_prompts < 2:
        return Contest(_letters(order, apart), n_prompts, None)
    spread = float(np.median(np.nanstd(first - second, axis=0, ddof=1)))
    return Contest(_letters(order, apart), n_prompts, smallest_difference(spread, n_prompts) / unit)


def write_references(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Keep the references of a bench beside its results, so that results can be compared without the bench.

    As Arrow files: every Parquet file under results has the scores of a model.

    Raises:
        NbenchError: the folder cannot be written.
    """
    for name, table in tables.items():
        content = pa.BufferOutputStream()
        with pa.ipc.new_file(content, table.schema) as file:
            file.write_table(table)
        write_out(reference_file(folder, name), content.getvalue().to_pybytes())


def read_references(path: Path) -> pa.Table:
    """A score table of `write_references`.

    Raises:
        NbenchError: no such file, or it is damaged.
    """
    try:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        table.validate(full=True)
        scores_metadata(table)
    except Exception as error:  # on damaged bytes the reading library raises many types
        raise NbenchError(f"cannot read {path} ({reason_of(error)}): run nbench evaluate again") from None
    if not table.schema.equals(SCORE_SCHEMA):
        raise NbenchError(f"{path} is not a score table: run nbench evaluate again")
    return table


def prompt_values(path: Path, result: EvaluationResult, reference: str, position: int, figure: str) -> Array | None:
    """The value of `figure` per prompt, float [P], in the order of the reference; None if the tables of scores and
    references beside the result are not there or of another run."""
    try:
        truth = read_references(reference_file(path.parent, reference))
        scores = read_scores(path.with_suffix(".parquet"))
    except NbenchError:
        return None
    stated = {"bench_fingerprint": result.bench_fingerprint}
    for table, scorer in ((truth, result.reference_fingerprints.get(reference)), (scores, result.model_fingerprint)):
        origin = scores_metadata(table)
        if {key: origin.get(key) for key in (*stated, "scorer_fingerprint")} != stated | {"scorer_fingerprint": scorer}:
            return None
    final, ours = scores_at(truth, result.steps), scores_at(scores, position)
    place = {name: number for number, name in enumerate(dict.fromkeys(prompt for prompt, _ in final))}
    arrays = np.full((2, len(place), result.n_candidates), np.nan)
    for array, table in zip(arrays, (ours, final), strict=True):
        for (prompt, candidate), score in table.items():
            if prompt in place and 0 <= candidate < result.n_candidates and score is not None:
                array[place[prompt], candidate] = score
    return VALUES[figure](arrays[0], arrays[1])


def reference_file(folder: Path, reference: str) -> Path:
    """Where the references of a bench are kept beside its results."""
    return folder / "references" / f"{reference}.arrow"


def _letters(order: Collection[str], apart: Collection[frozenset[str]]) -> dict[str, str]:
    """Letters by model: models share one unless their pair is `apart` (insert and absorb)."""
    groups = [set(order)]
    for pair in apart:
        split = [group - {member} if pair <= group else group for group in groups for member in pair]
        distinct = {frozenset(group) for group in split}
        groups = [set(group) for group in distinct if not any(group < other for other in distinct)]
    rank = {model: number for number, model in enumerate(order)}
    groups.sort(key=lambda group: sorted(rank[model] for model in group))
    return {
        model: "".join(ascii_letters[number % 52] for number, group in enumerate(groups) if model in group)
        for model in order
    }
