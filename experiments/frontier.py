"""Runs what is missing of a frontier: the scores and the costs of each scorer, which files keep, and its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..benchmarks.metrics import Array
from ..builders.spec import call_arguments, maker_of
from ..pipelines.find import load_pipeline
from ..sampling.offline.config import Costs
from ..sampling.offline.cost_file import read_costs, write_costs
from ..sampling.offline.measure import measure
from ..sampling.offline.recorded_scores import Recorded
from ..scorers.protocols import calls_per_score, has_input
from ..scorers.registry import get_scorer
from ..shards.reader import open_bench
from .data import Data
from .frontier_cells import TUNED_BY, frontier, oracle_rows, plain_cells, stack_frontier
from .frontier_plans import FRONTIERS, Source
from .measure import YARDSTICK, references, score

AT_ONCE = 20
"""Prompts at a time, of which costs are measured."""


def run_frontier(name: str, work: Path, results: Path, more: Sequence[str] = ()) -> None:
    """Score what is not scored yet, and write the figures of the frontier `name` to `results`.

    more: further scorers, as `nbench evaluate --model` takes them.
    """
    plan, data = FRONTIERS[name], Data(work)
    files = _Files(data, work / "scores" / name, work / "costs" / name, data(plan.bench))
    judges = references(files.bench)
    recorded, costs = {}, {}
    for each, source in {**plan.scorers, **{model: Source(model) for model in more}}.items():
        recorded[each], costs[each] = files.recorded(each, source, judges), files.costs(each, source)
        print(f"{name}: {each} is scored", flush=True)
    # full Best-of-6 is the same for all, and so is a decode
    clip = files.costs("clip", Source("image:clip"))
    steps, n = recorded["noisyclip"].steps, judges[YARDSTICK].shape[1]
    full = clip.best_of(n, steps)
    costs = {each: replace(own, decode=clip.decode) for each, own in costs.items()}
    rows = []
    for way in plan.ways(more):
        tables = [recorded[each] for each in way.scorers]
        tables = [
            table.at_positions([place for place in table.scores if place <= (way.latest or steps)]) for table in tables
        ]
        own = replace(costs[way.scorers[0]], score=sum(costs[each].score for each in way.scorers))
        if way.stack:
            cells = stack_frontier(tables, judges, own, full)
        else:
            cells = frontier(tables[0], judges, own, full, way.policies, way.recall)
        rows.append({"row": way.row, "cells": cells})
        print(f"{name}: {way.row}", flush=True)
    rows.append({"row": "plain Best-of-n", "cells": plain_cells(judges)})
    content = {
        "prompts": len(judges[YARDSTICK]),
        "candidates": n,
        "score_costs": {each: round(own.score, 3) for each, own in costs.items()},
        "decode_cost": round(clip.decode, 3),
        "rows": rows,
        "oracle": oracle_rows(judges, clip, full, steps, plan.oracle),
    }
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class _Files:
    """What is kept of a frontier, by scorer: its scores on the bench, and its costs."""

    data: Data
    scores: Path
    seconds: Path
    bench: Path

    def recorded(self, name: str, source: Source, judges: dict[str, Array]) -> Recorded:
        """The scores of a model at all positions before T."""
        file = self.scores / f"{_slug(name)}.npz"
        bench = self.bench if source.bench is None else self.data(source.bench)
        model, opened = self._model(source), open_bench(bench)
        info, reads = opened.info, get_scorer(model, opened.info, load=False).reads
        if not file.is_file():
            recorded_at = [position.position for position in info.positions if position.position < info.steps]
            positions = [k for k in recorded_at if has_input(reads, k, info.steps) and (k or calls_per_score(reads))]
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, scores=score(bench, model, positions), positions=positions)
        table = dict(np.load(file))
        scores = {int(k): values for k, values in zip(table["positions"], table["scores"], strict=True)}
        judge, final = judges[TUNED_BY], judges[YARDSTICK]
        calls = calls_per_score(reads)
        return Recorded(name, scores, judge, TUNED_BY, final, YARDSTICK, info.steps, calls_per_score=calls)

    def costs(self, name: str, source: Source) -> Costs:
        """In denoiser calls, with scores and decodes by their seconds in full batches of 20 prompts, measured once."""
        file, opened = self.seconds / f"{_slug(name)}.json", open_bench(self.bench)
        scorer = get_scorer(self._model(source), opened.info, load=False)
        if not file.is_file():
            info, prompts = opened.info, [prompt.prompt for prompt in opened.prompts[:AT_ONCE]]
            pipe = load_pipeline(maker_of(info.spec), info.spec["dtype"])
            file.parent.mkdir(parents=True, exist_ok=True)
            scorer = get_scorer(self._model(source), info)
            write_costs(file, measure(pipe, call_arguments(info.spec), scorer, prompts, info.candidates, info.preview))
        seconds = read_costs(file)
        step = seconds.step_seconds[-1]
        return Costs(seconds.score_seconds[-1] / step, seconds.decode_seconds[-1] / step, calls_per_score(scorer.reads))

    def _model(self, source: Source) -> str:
        return source.model or f"x0-preview:vqascore:{self.data(self.bench.name.replace('bench', 'x0vqa'))}"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
