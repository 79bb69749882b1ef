"""Train a learner with the Trainer of transformers: processes, precision, checkpoints, a log, evaluation by gain."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from ..errors import NbenchError
from ..progress import BuildProgress
from ..shards.atomic import atomic_write
from .checkpoints import PREFIX, mark_complete
from .config import FineTuneConfig
from .examples import ExampleDataset, Examples
from .learner import Learner
from .processes import share

WARM_UP = 0.1
TRAINER_STATE_NAME = "trainer_state.json"
GAIN = "recovered_gain"
PROJECT = "nbench"
"""Where loggers put runs."""
Line = dict[str, Any]


class FineTuner(Trainer):
    """Trains a `Learner` on `ExampleDataset`s.

    Args:
        recipe: digest of all that determines the weights; checkpoints of another one are not resumed.
        gain: the recovered gain of a scorer, if there is a bench to evaluate on.
        checkpoint: where `train` will resume from.
    """

    def __init__(
        self,
        learner: Learner,
        config: FineTuneConfig,
        training: ExampleDataset,
        validation: IterableDataset[Examples],
        recipe: str,
        gain: Callable[[Any], float] | None,
        checkpoint: Path | None,
        shown: bool,
    ) -> None:
        self.learner, self.config, self._recipe, self._gain = learner, config, recipe, gain
        self._training, self._validation = training, validation
        self._steps_per_epoch = len(self._training)
        self.curve = Curve(config, self._steps_per_epoch, shown)
        stopping = EarlyStoppingCallback(config.patience or config.epochs)
        if checkpoint is not None:
            for callback in (self.curve, stopping):
                _restore(callback, checkpoint)
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        callbacks: list[TrainerCallback] = [self.curve, _Steps(self._training, config.save_every)]
        best = None if gain is None else GAIN
        if best is None and learner.memorizes and len(validation):  # type: ignore[arg-type]  # it has a length
            best = "loss"
        arguments = _arguments(config, best, resumed=checkpoint is not None)
        if config.patience is not None:
            callbacks.append(stopping)
            if stopping.early_stopping_patience_counter >= config.patience:  # killed after its last epoch
                arguments.num_train_epochs = len(self.curve) - 1
        super().__init__(
            model=learner,
            args=arguments,
            train_dataset=self._training,
            eval_dataset=self._validation,
            callbacks=callbacks,
        )
        # the one name that transformers takes from nowhere else
        os.environ.setdefault("WANDB_PROJECT", PROJECT)
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Whole batches, as the data set makes them."""
        return DataLoader(self._training, batch_size=None, collate_fn=lambda examples: {"examples": examples})

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW, with the weight decay of CLIP on all parameters."""
        if self.optimizer is None:
            trained = [values for values in self.learner.parameters() if values.requires_grad]
            self.optimizer = torch.optim.AdamW(trained, lr=self.config.learning_rate, weight_decay=0.01)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over the first tenth, then cosine decay to zero, as in the paper."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: schedule(step, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The learner's loss; its figures are noted in the curve."""
        outputs = model(inputs["examples"])
        self.curve.note(_finite(outputs["loss"].item()), outputs["accuracy"].item())
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    control: Any

    def evaluate(self, *args: Any, **settings: Any) -> dict[str, float]:
        """Loss and accuracy on held-out rows, and the recovered gain on the bench."""
        self.learner.eval()
        figures: dict[str, float] = {}
        with torch.inference_mode():
            batches = [(self.learner(examples), len(examples)) for examples in self._validation]
        for name in ("loss", "accuracy") if batches else ():
            values, rows = [outputs[name].item() for outputs, _ in batches], [count for _, count in batches]
            figures[f"eval_{name}"] = float(np.average(values, weights=rows))
        _finite(figures.get("eval_loss", 0.0))
        if self._gain is not None:
            figures[f"eval_{GAIN}"] = self._gain(self.learner.scorer())
        self.learner.train()
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # learners move what they need

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        weights = {name: values.contiguous() for name, values in trained_state(self.learner).items()}
        save_file(weights, Path(output_dir) / "model.safetensors", {"format": "pt"})

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            mark_complete(Path(self.args.output_dir) / f"{PREFIX}{self.state.global_step}", self._recipe)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Nothing: a checkpoint holds what is trained, the rest is as it was."""


class Logged(dict[str, Any]):
    """The recipe of a run as the `config` of its model, which transformers' loggers send along."""

    def to_json_string(self) -> str:
        """As of a transformers config."""
        return json.dumps(self)


def trained_state(learner: Learner) -> dict[str, torch.Tensor]:
    """The parameters that are trained, by name."""
    return {name: values.detach() for name, values in learner.named_parameters() if values.requires_grad}


def schedule(step: int, steps: int) -> float:
    """The learning rate as a share of its peak."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


def _finite(loss: float) -> float:
    """`loss`.

    Raises:
        NbenchError: it is not finite, so neither are the weights, now or after a step.
    """
    if not math.isfinite(loss):
        raise NbenchError(
            f"the loss has become {loss}: train again into another --out with a lower --learning-rate or without --bf16"
        )
    return loss


class Curve(TrainerCallback, ExportableState):
    """Writes `train.jsonl`, a line per epoch; checkpoints hold its lines, so that a resumed run writes the same."""

    def __init__(self, config: FineTuneConfig, steps_per_epoch: int, shown: bool) -> None:
        self._config, self._steps, self._shown = config, steps_per_epoch, shown
        self._lines: list[Line] = []
        self._sums = [0.0, 0.0, 0.0, 0.0]
        """Loss, accuracy, their number, and seconds of this epoch in earlier runs."""
        self._began = time.monotonic()
        self._progress: BuildProgress | None = None

    def note(self, loss: float, accuracy: float) -> None:
        """Count one step."""
        for index, value in enumerate((loss, accuracy, 1.0)):
            self._sums[index] += value

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        elapsed = time.monotonic() - self._began
        return {"args": {}, "attributes": {"_lines": self._lines, "_sums": [*self._sums[:3], self._sums[3] + elapsed]}}

    def __len__(self) -> int:
        """Lines so far: one before training, and one per epoch."""
        return len(self._lines)

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._began = time.monotonic()
        if state.best_model_checkpoint is not None:  # the folder may have moved since
            state.best_model_checkpoint = str(self._config.out / Path(state.best_model_checkpoint).name)
        if state.is_world_process_zero:
            self._progress = BuildProgress("training steps", state.max_steps, state.global_step, self._shown)
            self._progress.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._progress is not None:
            self._progress.advance(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **others: Any) -> None:
        epoch = round(state.global_step / self._steps)
        loss, accuracy, count, earlier = self._sums
        line: Line = {"epoch": epoch}
        if count:
            line |= {"loss": loss / count, "accuracy": accuracy / count}
        line |= {f"validation_{name}": metrics.get(f"eval_{name}") for name in ("loss", "accuracy")}
        if (gain := metrics.get(f"eval_{GAIN}")) is not None:
            line[GAIN] = gain
        if count:
            line["seconds"] = earlier + time.monotonic() - self._began
        rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}
        self._lines = [*self._lines[:epoch], rounded]
        self._sums, self._began = [0.0] * 4, time.monotonic()
        if not state.is_world_process_zero:
            return
        text = "".join(json.dumps(each) + "\n" for each in self._lines)
        atomic_write(self._config.out / "train.jsonl", text.encode())

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__()


def _restore(callback: ExportableState, checkpoint: Path) -> None:
    """Give a callback the state that `checkpoint` has of it; transformers would only do so for new ones."""
    states = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())["stateful_callbacks"]
    for name, value in states.get(type(callback).__name__, {"attributes": {}})["attributes"].items():
        setattr(callback, name, value)


class _Steps(TrainerCallback):
    """Tells the data set which epoch it is in, also after a resumption, and saves every so many steps."""

    def __init__(self, data: ExampleDataset, save_every: int | None) -> None:
        self._data, self._save_every = data, save_every

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._data.set_epoch(state.global_step // len(self._data))

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        # the last step of an epoch is saved after its evaluation, which a resumed run would not repeat
        if self._save_every and state.global_step % self._save_every == 0 and state.global_step % len(self._data):
            control.should_save = True


def _arguments(config: FineTuneConfig, best: str | None, resumed: bool) -> TrainingArguments:
    """`best`: the figure whose best checkpoint is kept in the end; None: the last."""
    cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(config.out),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_grad_norm=1.0,
        seed=config.seed,
        bf16=config.bf16,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and share()[1] > 1 else None,
        ddp_find_unused_parameters=getattr(config, "tune", "") == "all",
        eval_strategy="epoch",
        eval_on_start=not resumed,
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="steps" if config.reports else "epoch",
        logging_steps=10,
        report_to=config.reports,
        run_name=config.out.name,
        project=PROJECT,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        disable_tqdm=True,
        log_level="error",
        load_best_model_at_end=best is not None,
        metric_for_best_model=best,
        greater_is_better=best == GAIN,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are for torchrun, one process each
    return arguments
