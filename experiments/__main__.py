"""`make experiments`: runs what is missing of the experiments and writes their figures and their page.

An interrupted run resumes: data sets, trained models and scores that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..scorers.protocols import has_input
from ..scorers.registry import get_scorer
from ..shards.reader import open_bench
from ..training.config import TrainConfig
from ..training.noisyclip import train
from .data import SEEDS, Data
from .frontier import run_frontier
from .frontier_plans import FRONTIERS
from .measure import YARDSTICK, figures, references, score, unseen
from .page import RESULTS, write_page
from .plans import EXPERIMENTS, Experiment, Run

NAMES = (*EXPERIMENTS, *FRONTIERS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make experiments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (all)")
    parser.add_argument("--work", type=Path, default=Path("data/experiments"), help="data sets, models and scores")
    parser.add_argument("--scorer", action="append", default=[], help="further scorers of the frontier (nbench models)")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no experiment {unknown[0]}: there are {', '.join(NAMES)}")
    if not options.page:
        for name in options.names or NAMES:
            if name in FRONTIERS:
                run_frontier(name, options.work, RESULTS, options.scorer)
            else:
                run_experiment(name, EXPERIMENTS[name], options.work)
    write_page()


def run_experiment(name: str, experiment: Experiment, work: Path) -> None:
    """Run what is missing; the figures are written after each model, so that an interrupted run leaves some."""
    data = Data(work)
    bench = data(experiment.bench)
    judges = references(bench)
    for seed in range(SEEDS):
        for run in experiment.runs:
            if seed not in run.seeds:
                continue
            file = work / "scores" / name / f"{_slug(run.row)}-{seed}.npz"
            if not file.is_file():
                began = time.monotonic()
                model = run.model or str(_trained(name, run, seed, data))
                seconds = time.monotonic() - began
                positions = _positions(bench, model, experiment)
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, scores=score(bench, model, positions), positions=positions, seconds=seconds)
                print(f"{name}: {run.row}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
            _write(name, experiment, bench, judges, work)


def _trained(name: str, run: Run, seed: int, data: Data) -> Path:
    """The folder of a model, trained unless it is there."""
    models = data.folder / "models" / name
    start = None if run.start is None else str(data.model(run.start))
    settings = {"positions": "0:50"} | dict(run.settings)
    folder = data(run.data.format(seed=seed))
    return train(
        TrainConfig(folder, models / f"{_slug(run.row)}-{seed}", start=start, seed=seed, **settings), shown=False
    )


def _positions(bench: Path, model: str, experiment: Experiment) -> tuple[int, ...]:
    """The positions at which a model has an input."""
    info = open_bench(bench).info
    reads = get_scorer(model, info).reads
    return tuple(position for position in experiment.positions if has_input(reads, position, info.steps))


def _write(name: str, experiment: Experiment, bench: Path, judges: dict[str, Any], work: Path) -> None:
    files = {
        run.row: {seed: work / "scores" / name / f"{_slug(run.row)}-{seed}.npz" for seed in run.seeds}
        for run in experiment.runs
    }
    info, prompts, folds = open_bench(bench).info, np.arange(len(judges[YARDSTICK])), list(range(SEEDS))
    if experiment.crossed:
        trained = [files[run.row] for run in experiment.runs if not run.model]
        folds = [fold for fold in folds if all(seeds[fold].is_file() for seeds in trained)]
        prompts = prompts[np.isin(prompts % SEEDS, folds)]
    rows = []
    for run in experiment.runs:
        tables = [dict(np.load(file)) for seed, file in files[run.row].items() if seed in folds and file.is_file()]
        if not tables:
            continue
        scores = np.stack([table["scores"] for table in tables])
        scores = unseen(scores, folds) if experiment.crossed and not run.model else scores[:, :, prompts]
        judged = {reference: values[prompts] for reference, values in judges.items()}
        seconds = round(float(np.mean([table["seconds"] for table in tables])))
        cells = figures(scores, tables[0]["positions"].tolist(), judged)
        rows.append({"row": run.row, "seeds": 0 if run.model else len(tables), "seconds": seconds, "cells": cells})
    content = {"prompts": len(prompts), "candidates": info.candidates, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _slug(row: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row)


if __name__ == "__main__":
    main()
