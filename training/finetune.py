"""Fine-tune a scorer on previews of recorded positions: epochs over trajectories, a log, resuming."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from ..errors import NbenchError, reason_of
from ..progress import BuildProgress
from ..scorers.decoders import preview
from ..scorers.image_processor import ImageProcessor
from ..scorers.weights import folder_fingerprint
from ..shards.atomic import atomic_write, commit, temporary, writing_to
from ..shards.lock import locked
from ..shards.reader import Bench, open_bench
from .config import FineTuneConfig
from .saving import save_half

CHUNK = 16
"""Batches shuffled together in memory, so that neighbours on disk do not share a batch."""
VALIDATION_SHARE = 20
"""One prompt in this many is held out; accuracy on these is logged."""
WARM_UP = 0.1


class Examples(NamedTuple):
    """Previews and final images, 0..1 [B, 3, h, w]; B captions, and the corrupted captions of each."""

    previews: torch.Tensor
    images: torch.Tensor
    captions: list[str]
    corrupted: list[list[str]]


class FineTuning(ABC):
    """The model in training, its optimizer and their progress. A subclass defines model and loss."""

    title: ClassVar[str]

    def __init__(self, config: FineTuneConfig, bench: Bench, positions: tuple[int, ...], folder: Path) -> None:
        from transformers import AutoTokenizer

        torch.manual_seed(config.seed)
        self.config, self.bench, self.positions = config, bench, positions
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.process = ImageProcessor(folder, self.device)
        self.model = self.open(folder).to(self.device).eval().requires_grad_(False)
        self.trained = self.to_train()
        self.trained.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=config.learning_rate, weight_decay=0.01)
        rows = bench.info.rows - bench.n_failed
        self.steps = config.epochs * max(1, rows // config.batch_size)
        self.step = 0

    @abstractmethod
    def open(self, folder: Path) -> Any:
        """The transformers model of a folder, in float32."""

    @abstractmethod
    def to_train(self) -> torch.nn.Module:
        """The part of the model to train."""

    @abstractmethod
    def loss(self, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and accuracy of a batch."""

    def epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training rows; mean loss and accuracy."""
        figures = []
        for examples in _examples(self.bench, self.positions, self.config, epoch, validation=False):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * _schedule(self.step, self.steps)
            loss, accuracy = self.loss(examples)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            figures.append((loss.item(), accuracy.item()))
        if not figures:
            raise NbenchError(
                f"{self.config.data} has too few rows to train on: give at least {self.config.batch_size}"
            )
        loss_mean, accuracy_mean = np.mean(figures, axis=0)
        return float(loss_mean), float(accuracy_mean)

    @torch.inference_mode()
    def validate(self) -> float | None:
        """Mean accuracy on the held-out rows; None if there are none."""
        held_out = _examples(self.bench, self.positions, self.config, 0, validation=True)
        accuracies = [self.loss(examples)[1].item() for examples in held_out]
        return float(np.mean(accuracies)) if accuracies else None

    def save(self, path: Path, recipe: dict[str, Any], epoch: int) -> None:
        """Write a checkpoint: everything that later epochs depend on."""
        state = {
            "recipe": json.dumps(recipe),
            "epoch": epoch,
            "step": self.step,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, temporary(path))
        commit(path)

    def load(self, path: Path, recipe: dict[str, Any]) -> int:
        """Load the checkpoint at `path`, if there is one; the number of finished epochs."""
        if not path.is_file():
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            previous = json.loads(state["recipe"])
        except Exception as error:  # torch raises a dozen unrelated types for damaged files
            raise NbenchError(
                f"{path} is damaged ({reason_of(error)}): remove it to train from the beginning"
            ) from None
        if previous != recipe:
            raise NbenchError(f"{path.parent} holds another training run: choose another --out or remove it")
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return int(state["epoch"])


def fine_tune(config: FineTuneConfig, kind: type[FineTuning], folder: Path, shown: bool = True) -> Path:
    """Train and write model, tokenizer, preprocessing, `train.jsonl` and `training.json` to `config.out`.

    An interrupted run resumes after its last finished epoch and ends with the same weights.

    Raises:
        NbenchError: no such data or start, too few rows, a missing signal, or `out` holds another run.
    """
    bench = open_bench(config.data)
    positions = bench.select(config.positions)
    bench.require_signals(["x0"] if config.reads == "x0_preview" else [])
    recipe = _recipe(config, bench, positions, folder)
    with writing_to(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        with locked(config.out, f"another training is writing to {config.out}: wait for it or choose another --out"):
            if not _finished(config.out, recipe):
                _train(kind(config, bench, positions, folder), recipe, folder, shown)
            (config.out / "checkpoint.pt").unlink(missing_ok=True)
    return config.out


def _train(run: FineTuning, recipe: dict[str, Any], folder: Path, shown: bool) -> None:
    """Run the remaining epochs. training.json is written last: it marks the model as complete."""
    config = run.config
    first = run.load(config.out / "checkpoint.pt", recipe)
    with (
        BuildProgress(run.title, config.epochs, first, shown) as progress,
        (config.out / "train.jsonl").open("a" if first else "w") as log,
    ):
        if not first:
            _write(log, {"epoch": 0, "validation_accuracy": run.validate()})
        for epoch in range(first, config.epochs):
            started = time.monotonic()
            loss, accuracy = run.epoch(epoch)
            line = {"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "validation_accuracy": run.validate()}
            _write(log, line | {"seconds": time.monotonic() - started})
            run.save(config.out / "checkpoint.pt", recipe, epoch + 1)
            progress.advance(1)
    save_half(run.model, config.out)
    for path in folder.iterdir():
        if path.name.startswith(
            ("tokenizer", "special_tokens", "vocab", "merges", "preprocessor_config", "processor_config")
        ):
            shutil.copyfile(path, config.out / path.name)
    atomic_write(config.out / "training.json", (json.dumps(recipe, indent=2) + "\n").encode())


def _examples(
    bench: Bench, positions: tuple[int, ...], config: FineTuneConfig, epoch: int, *, validation: bool
) -> Iterator[Examples]:
    """Batches of training or held-out rows; each row at one position, drawn at random per epoch."""
    rng, preview_map = np.random.default_rng([config.seed, epoch]), bench.info.preview
    assert preview_map is not None
    signal = "x0" if config.reads == "x0_preview" else "latent"
    for batch in bench.batches(positions, True, config.batch_size * CHUNK, signals=(signal,)):
        assert batch.images is not None
        by_position = batch.x0 if signal == "x0" else batch.latents
        kept = [row for row, prompt in enumerate(batch.prompt_ids) if _validation(prompt) == validation]
        rows = rng.permutation(np.array(kept, dtype=int))
        at = rng.choice(positions, len(batch.prompt_ids))
        for start in range(0, len(rows) - (1 if validation else config.batch_size - 1), config.batch_size):
            chosen = rows[start : start + config.batch_size]
            latents = np.stack([by_position[int(at[row])][row] for row in chosen]).astype(np.float32)
            corrupted = [[text for text in (batch.corruptions[row] or {}).values() if text] for row in chosen]
            images = torch.from_numpy(batch.images[chosen]).permute(0, 3, 1, 2) / 255
            previews = preview(torch.from_numpy(latents), preview_map)
            yield Examples(previews, images, [batch.prompts[row] for row in chosen], corrupted)


def _validation(prompt_id: str) -> bool:
    return hashlib.sha256(prompt_id.encode()).digest()[0] % VALIDATION_SHARE == 0


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then cosine decay to zero, as in the paper."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


def _recipe(config: FineTuneConfig, bench: Bench, positions: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Everything that determines the weights; no paths."""
    if bench.info.preview is None:
        raise NbenchError(f"{config.data} has no preview map: build it again, which fits one")
    settings = {key: value for key, value in asdict(config).items() if key not in ("data", "out", "start")}
    recipe = settings | {
        "positions": list(positions),
        "data": bench.info.fingerprint,
        "rows": bench.info.rows,
        "start": folder_fingerprint(folder, "start"),
        "preview": asdict(bench.info.preview),
        **({} if config.reads == "preview" else {"reads": config.reads}),
    }
    return dict(json.loads(json.dumps(recipe)))  # as it is read back: lists, not tuples


def _finished(out: Path, recipe: dict[str, Any]) -> bool:
    path = out / "training.json"
    if not path.is_file():
        return False
    try:
        trained = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise NbenchError(f"{path} is damaged: remove it to train from the last finished epoch") from None
    if trained != recipe:
        raise NbenchError(f"{out} holds another trained model: choose another --out or remove it")
    return True


def _write(log: Any, line: dict[str, float | None]) -> None:
    log.write(json.dumps({key: value and round(value, 5) for key, value in line.items()}) + "\n")
    log.flush()
