"""A training run from its data to a model folder: resumed, locked, finished once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ChainDataset

from ..benchmarks.metrics.model_figures import YARDSTICK
from ..errors import NbenchError, reason_of
from ..pipelines.quiet import quieten_transformers
from ..scorers.weights import folder_fingerprint
from ..shards.atomic import atomic_write, writing_to
from ..shards.hub.card import model_card
from ..shards.lock import locked
from ..shards.reader import Bench, open_bench
from ..shards.references import finished_scores
from ..shards.schema import digest
from ..shards.scores import scores_metadata
from .checkpoints import last_checkpoint, remove_checkpoints
from .config import FineTuneConfig
from .examples import ExampleDataset
from .learner import Learner
from .noise import noise_of
from .processes import local_rank, share

MakeLearner = Callable[[torch.device], Learner]
_NOT_IN_RECIPE = {"data", "out", "start", "base", "report_to", "save_every"} | {
    *("micro_batch", "checkpointing", "compile"),
}
"""Settings that do not decide the weights, or that the recipe states by a fingerprint."""
_OF_BENCH = {"bench", "bench_prompts", "bench_reference", "patience"}
"""Settings that decide which checkpoint is kept, if there is a bench."""


def fine_tune(
    config: FineTuneConfig, make: MakeLearner, folder: Path | None, shown: bool = True, base: Path | None = None
) -> Path:
    """Train and write model, tokenizer, preprocessing, card, `train.jsonl` and `training.json` to `config.out`.

    The model starts from the one in `folder`, or from random weights. `base` is the frozen one that it learns from, if
    that is another.

    An interrupted run resumes after its last checkpoint, with the same loss curve. With torchrun, all processes
    call it, and the first one writes.

    Raises:
        NbenchError: no such data or base, too few rows, a missing signal or reference, or `out` holds another run.
    """
    for package in config.reports:
        if find_spec(package) is None:
            raise NbenchError(f"--report-to {package} needs the package {package}: pip install {package}")
    bench = open_bench(config.data)
    if folder is not None and bench.info.preview is None:
        raise NbenchError(f"{config.data} has no preview map: build it again, which fits one")
    noise = noise_of(config, bench)
    bench.require_signals([config.signal])
    recipe = _recipe(config, bench, folder, base) | {"positions": list(noise.positions)}
    with writing_to(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        busy = f"another training is writing to {config.out}: wait for it or choose another --out"
        with locked(config.out, busy) if share()[0] == 0 else nullcontext():
            if not _finished(config.out, recipe):
                _train(config, make, bench, recipe, shown)
            if share()[0] == 0:
                remove_checkpoints(config.out)
    return config.out


def _train(config: FineTuneConfig, make: MakeLearner, bench: Bench, recipe: dict[str, Any], shown: bool) -> None:
    """Run the remaining steps. training.json is written last: it marks the model as complete."""
    from transformers import set_seed

    from .gain import gain_on
    from .trainer import FineTuner, Logged

    quieten_transformers()
    set_seed(config.seed)
    checkpoint = last_checkpoint(config.out, digest(recipe))
    learner = make(_device())
    learner.config = Logged(recipe)
    training = ExampleDataset(config, bench, learner.images, share())
    positions = training.noise.positions
    validated = [replace(config, positions=str(k)) for k in positions] if learner.memorizes else [config]
    trainer = FineTuner(
        learner,
        config,
        training,
        ChainDataset([ExampleDataset(each, bench, learner.images, share(), held_out=True) for each in validated]),
        digest(recipe),
        gain_on(config, positions),
        checkpoint,
        shown and share()[0] == 0,
    )
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Exception as error:  # loggers raise many unrelated types
        package = type(error).__module__.partition(".")[0]
        if package not in config.reports:
            raise
        raise NbenchError(
            f"--report-to {package} failed ({reason_of(error)}): mend that or leave it out; training goes on from its "
            "last checkpoint"
        ) from error
    if share()[0] == 0:
        learner.save(config.out)
        atomic_write(config.out / "README.md", model_card(recipe, config.out.name).encode())
        atomic_write(config.out / "training.json", (json.dumps(recipe, indent=2) + "\n").encode())


def _device() -> torch.device:
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def _recipe(config: FineTuneConfig, bench: Bench, folder: Path | None, base: Path | None) -> dict[str, Any]:
    """Everything that determines the weights; no paths."""
    left_out = _NOT_IN_RECIPE | (_OF_BENCH if config.bench is None else set())
    settings = {key: value for key, value in asdict(config).items() if key not in left_out}
    recipe = settings | {"data": bench.info.fingerprint, "rows": bench.info.rows}
    if config.bench is not None:
        judge = open_bench(config.bench)
        recipe["bench"] = judge.info.fingerprint
        recipe["bench_scorers"] = [_scorer_of(judge, name) for name in (config.bench_reference, YARDSTICK)]
    if config.needs_reference is not None:
        recipe["reference_scorer"] = _scorer_of(bench, config.needs_reference)
    if folder is not None:
        assert bench.info.preview is not None
        recipe |= {"start": folder_fingerprint(folder, "start"), "preview": asdict(bench.info.preview)}
        if base not in (None, folder):
            recipe["base"] = folder_fingerprint(base, "start")
    return dict(json.loads(json.dumps(recipe)))  # as it is read back: lists, not tuples


def _scorer_of(bench: Bench, reference: str) -> str:
    """Fingerprint of the scorer behind a reference, which `nbench references --replace` may change."""
    return str(scores_metadata(finished_scores(bench, reference))["scorer_fingerprint"])


def read_training(folder: Path) -> dict[str, Any] | None:
    """The recipe of a model that was trained here; None of any other.

    Raises:
        NbenchError: the file is damaged.
    """
    path = folder / "training.json"
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError):
        raise NbenchError(f"{path} is damaged: remove it to train from the last checkpoint") from None


def _finished(out: Path, recipe: dict[str, Any]) -> bool:
    trained = read_training(out)
    if trained is None:
        return False
    if trained != recipe:
        raise NbenchError(f"{out} holds another trained model: choose another --out or remove it")
    return True
