"""Check a scorer on the first rows of a bench, or on random inputs."""

from __future__ import annotations

from ...errors import NbenchError
from ...scorers.check import PROMPTS, ROWS, WORLD, check_names, check_scorer, made_up_inputs
from ...scorers.placement import Placement
from ...scorers.protocols import NameScorer, Scorer
from ...scorers.registry import get_scorer
from ...shards.reader import open_bench
from .inputs import BenchInputs, applied, readable
from .options import ScoreOptions


def check_model(model: str, bench: str | None, position: int | None, placement: Placement) -> tuple[Scorer, list[str]]:
    """The scorer `model`, and its problems.

    Args:
        position: of the bench; None for the middle one of the stored positions that the scorer can read.

    Raises:
        NbenchError: no such scorer, bench or position, or the bench lacks what the scorer reads.
    """
    if bench is None:
        scorer = get_scorer(model, WORLD, placement)
        return scorer, check_scorer(scorer, made_up_inputs(scorer, WORLD), PROMPTS, WORLD.positions[0])
    opened = open_bench(bench)
    scorer = get_scorer(model, opened.info, placement)
    inputs, run = BenchInputs(opened, scorer.reads), applied(opened, scorer, ScoreOptions(placement=placement))
    stored = opened.info.stored if position is None else [position]
    positions = readable(scorer, stored, opened.info.steps)
    if not positions:
        raise NbenchError(
            f"{scorer.name} reads {scorer.reads}, which position {position} does not have: give another position"
        )
    middle = positions[len(positions) // 2]
    opened.require([middle])
    for batch in opened.batches(inputs.columns_at([middle]), inputs.images, ROWS, signals=inputs.signals):
        if len(batch) and isinstance(scorer, NameScorer):
            return scorer, check_names(scorer, batch.prompt_ids, batch.candidates, middle)
        if len(batch):
            recorded = inputs.recorded(batch, middle, slice(0, len(batch)))
            at = next(position for position in opened.info.positions if position.position == middle)
            return scorer, check_scorer(scorer, run.prepared(recorded), batch.prompts, at)
    raise NbenchError(f"{bench} has no trajectory to check {scorer.name} on: all of them failed")
