"""Runs a batch of candidates of one or several prompts through a stock pipeline, and stops those who leave."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..pipelines.calling import RunEnded, as_pixels, call_pipeline, is_out_of_memory
from ..pipelines.latent_layout import float32_noise
from ..pipelines.options import as_called
from ..pipelines.pruning import Pruner
from ..pipelines.step_tap import own_noise
from ..pipelines.watch import Known, Watch
from ..scorers.apply import Rows
from ..shards.inspect import preview_image
from ..shards.scores import PROMPT
from ..shards.seeds import candidate_seed
from .live_scorer import LiveScorer
from .waves import Waves


@dataclass
class Task:
    """A prompt, and what is known of its candidates so far, by number."""

    prompt: str
    prompt_id: str
    seed: int
    waves: Waves
    scores: dict[int, dict[int, float]] = field(default_factory=dict)
    left_at: dict[int, int] = field(default_factory=dict)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    previews: dict[int, np.ndarray] = field(default_factory=dict)
    rows: int = 0

    def seed_of(self, number: int) -> int:
        """The seed of a candidate: that which a bench gives it."""
        return candidate_seed(self.seed, self.prompt_id, number)

    def decide(self, index: int, found: dict[int, float], position: int) -> list[int]:
        """Note the scores of all living candidates at a stage; those that go on."""
        kept = self.waves.decide(index, found)
        for number, score in found.items():
            self.scores[number][position] = score
            if number not in kept:
                self.left_at[number] = position
        return kept


class _Ended(RunEnded):
    """Nobody goes on."""


class Batch:
    """The next wave of each of several tasks, which follow the same rules, as one batch of `pipe`: a row a candidate.

    The waves are of one size, as a batch of several tasks has room for all candidates of each.
    """

    def __init__(self, pipe: Any, live: LiveScorer, tasks: Sequence[Task], arguments: dict[str, Any]) -> None:
        drawn = [(task, task.waves.next()) for task in tasks]
        self._drawn = [(task, numbers) for task, numbers in drawn if numbers]
        self.rows = [(task, number) for task, numbers in self._drawn for number in numbers]
        self._pipe, self._live, self._arguments = pipe, live, arguments
        self._pruner = Pruner(pipe, len(self.rows), arguments)
        self._watch = Watch(pipe, lambda _: live.reads, self._seen, self._computed)
        self._calls: defaultdict[int, int] = defaultdict(int)  # by the task's place in memory

    def run(self) -> None:
        """Run until all have left or are finished; the tasks know the outcome."""
        for task, number in self.rows:
            task.scores[number] = {}
        steps = self.rows[0][0].waves.rules.steps
        with self._pruner:
            try:
                called = self._called()
                with self._watch, float32_noise(self._pipe), own_noise(self._pipe, called["generator"]):
                    made = call_pipeline(self._pipe, **called)
                self._drop(np.flatnonzero(~made.finite), steps)
                if self._live.reads_images:
                    pixels = torch.from_numpy(made.values).permute(0, 3, 1, 2)
                    self._stage(steps, lambda: pixels, pixels)
            except _Ended:
                if hasattr(self._pipe, "maybe_free_model_hooks"):
                    self._pipe.maybe_free_model_hooks()  # as the pipeline does at its own end
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise NbenchError(
                    f"out of memory with {len(self.rows)} candidates at a time: use a smaller batch (--max-batch)"
                ) from error
            else:
                for row in self._pruner.living:
                    task, number = self.rows[row]
                    task.images[number] = as_pixels(made.values[row])
        for task, _ in self._drawn:
            task.rows += round(self._pruner.rows * self._calls[id(task)] / sum(self._calls.values()))

    def _called(self) -> dict[str, Any]:
        generators = [torch.Generator().manual_seed(task.seed_of(number)) for task, number in self.rows]
        prompts, several = [task.prompt for task, _ in self.rows], {}
        if len(self._drawn) == 1 and "num_images_per_prompt" in inspect.signature(self._pipe.__call__).parameters:
            # embedded once; of several prompts some pipelines repeat the masks in another order than the embeddings
            prompts, several = prompts[:1], {"num_images_per_prompt": len(self.rows)}
        called = as_called(self._pipe, self._arguments, len(prompts))
        return {**called, **several, "prompt": prompts, "generator": generators}

    def _computed(self) -> list[int]:
        return self._pruner.computed(self.rows[0][0].waves.rules.compiled)

    def _seen(self, position: int, latents: torch.Tensor, known: Mapping[int, Known]) -> None:
        rules = self.rows[0][0].waves.rules
        if self._watch.steps != rules.steps:
            asked = f"{self._watch.steps} steps when asked for {rules.steps}"
            raise NbenchError(f"{type(self._pipe).__name__} runs {asked}: ask so")
        for row in self._computed():
            task = self.rows[row][0]
            task.waves.spent += 1
            self._calls[id(task)] += 1
        for at, what in known.items():
            self._stage(at, what, latents)

    def _drop(self, rows: Collection[int], position: int) -> None:
        """Stop the living of `rows`, whose images are not finite, so that none of them is selected."""
        for row in (row for row in self._pruner.living if row in rows):
            task, number = self.rows[row]
            task.left_at[number] = position
            task.waves.drop(number)
        self._pruner.keep([row for row in self._pruner.living if row not in rows])
        if not self._pruner.living:
            raise _Ended

    def _stage(self, position: int, what: Known, latents: torch.Tensor) -> None:
        """Score the living, if the policy says so here, and stop those who leave."""
        stages = self.rows[0][0].waves.rules.stages
        index = next((i for i, stage in enumerate(stages) if stage.position == position), None)
        if index is None:
            return
        living = self._pruner.living
        who = [self.rows[row] for row in living]
        prompts = [task.prompt for task, _ in who]
        rows = Rows([task.prompt_id for task, _ in who], [number for _, number in who], {PROMPT: prompts})
        known = what()[living]
        scores = self._live.score(rows, self._watch.at(position), known)
        kept: list[int] = []
        for task, _ in self._drawn:
            found = {number: score for (other, number), score in zip(who, scores, strict=True) if other is task}
            if found:
                stay = task.decide(index, found, position)
                kept += [row for row in living if self.rows[row][0] is task and self.rows[row][1] in stay]
        shown = known if known.ndim == 4 else latents[living]  # gaps and activations are no picture
        for (task, number), row, last in zip(who, living, shown, strict=True):
            if row not in kept:
                self._remember(task, number, last)
        if not kept:
            raise _Ended
        self._pruner.keep(kept)

    def _remember(self, task: Task, number: int, shown: torch.Tensor) -> None:
        if self._live.reads_images:
            task.images[number] = as_pixels(shown.permute(1, 2, 0).numpy())
        elif self._live.preview_map is not None:
            task.previews[number] = preview_image(shown.float().cpu().numpy(), self._live.preview_map)
