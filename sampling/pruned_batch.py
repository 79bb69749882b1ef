"""Runs a batch of candidates of one or several prompts through a stock pipeline, and drops the losers on the way."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
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
from ..shards.signals import extra_calls
from .live_scorer import LiveScorer
from .waves import Waves

_ROUNDING = 1e-3
"""Rows of a batch may round differently; latents have about unit variance, and noise is as large."""


@dataclass(frozen=True)
class Progress:
    """How far a task is: its `position` of T `steps`, the candidates that go on, and the latest scores."""

    position: int
    steps: int
    living: tuple[int, ...]
    scores: dict[int, float]


@dataclass
class Task:
    """A prompt with the state of its candidates, by candidate number.

    `answers` are those of the denoiser for candidates that may be recalled (`Pruner`). `rows` are those that the
    denoiser has computed, `rows_of_one` those that a candidate takes from the first step to the last. `cancelled` is
    asked, and `progress` told, at every position of a run.
    """

    prompt: str
    prompt_id: str
    seed: int
    waves: Waves
    scores: dict[int, dict[int, float]] = field(default_factory=dict)
    left_at: dict[int, int] = field(default_factory=dict)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    previews: dict[int, np.ndarray] = field(default_factory=dict)
    answers: dict[int, list[Any]] = field(default_factory=dict, repr=False)
    rows: int = 0
    rows_of_one: int = 0
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[Progress], None] | None = None

    def seed_of(self, number: int) -> int:
        """The seed of a candidate, the same as in a bench."""
        return candidate_seed(self.seed, self.prompt_id, number)

    def decide(self, index: int, scores: dict[int, float], position: int) -> list[int]:
        """Store the scores of all living candidates at a stage; returns the candidates that continue."""
        kept = self.waves.decide(index, scores)
        for number, score in scores.items():
            self.scores[number][position] = score
            if number not in kept:
                self.left_at[number] = position
        return kept


class _Ended(RunEnded):
    """No candidate continues."""


class Batch:
    """The next wave of several tasks with the same rules, as one batch of `pipe` with one row per candidate.

    All waves have the same size, because a batch of several tasks has room for all candidates of each. Where some tasks
    draw another wave, the candidates of the others wait, and all go on in one batch: else each wave would end in small
    batches.
    """

    def __init__(self, pipe: Any, live: LiveScorer, tasks: Sequence[Task], arguments: dict[str, Any]) -> None:
        self._tasks = [task for task in tasks if not task.cancelled()]
        self._waves: list[tuple[Task, Sequence[int]]] = []
        for returning in (False, True):
            chosen = [task for task in self._tasks if task.waves.returns == returning]
            if not self._waves:
                self._waves = [(task, numbers) for task in chosen if (numbers := task.waves.next())]
        self.rows = [(task, number) for task, numbers in self._waves for number in numbers]
        self._pipe, self._live, self._arguments = pipe, live, arguments
        self._restarting = max(
            (stage.position for task, _ in self._waves for stage in task.waves.rules.redrawing), default=-1
        )
        answers = [task.answers.setdefault(number, []) for task, number in self.rows if self._restarting >= 0]
        again = [row for row, (task, _) in enumerate(self.rows) if task.waves.recalled]
        self._pruner = Pruner(pipe, len(self.rows), arguments, dict(enumerate(answers)), again)
        live.hold({(id(task), number) for task in tasks for number in task.answers})
        self._watch = Watch(pipe, lambda _: live.reads, self._reported, self._computed, self._reads_noise)
        self._calls: defaultdict[int, int] = defaultdict(int)  # by the task's id()
        self._copies: dict[int, int] = {}  # of the last step, by row
        self._position = 0

    @property
    def living(self) -> int:
        """How many candidates go on."""
        return len(self._pruner.living)

    @property
    def recalled(self) -> bool:
        """Whether all of it are candidates that stopped before."""
        return all(task.waves.recalled for task, _ in self._waves)

    @property
    def _ahead(self) -> list[int]:
        """The rows that go on, but for those of candidates that are not yet where they stopped before."""
        return [row for row in self._pruner.living if not self._pruner.repeats(row)]

    def run(self) -> None:
        """Run until every candidate is dropped or finished; the results are stored in the tasks."""
        for task, number in self.rows:
            task.scores.setdefault(number, {})
            task.left_at.pop(number, None)
        steps = self.rows[0][0].waves.rules.steps
        with self._pruner:
            try:
                arguments = self._pipe_arguments()
                with self._watch, float32_noise(self._pipe), own_noise(self._pipe, arguments["generator"]):
                    made = call_pipeline(self._pipe, **arguments)
                if self._position < steps:
                    raise NbenchError(
                        f"{type(self._pipe).__name__} ended after {self._position} of {steps} steps, without finished "
                        "images: leave out the callback that interrupts it"
                    )
                self._drop(np.flatnonzero(~made.finite), steps)
                if self._live.reads_images:
                    pixels = torch.from_numpy(made.values).permute(0, 3, 1, 2)
                    self._stage(steps, lambda: pixels, pixels)
            except _Ended:
                if hasattr(self._pipe, "maybe_free_model_hooks"):
                    self._pipe.maybe_free_model_hooks()  # the pipeline does so after a complete run
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
        for task, _ in self._waves:
            # guidance may be on for some of the steps only, so the rows of a few steps do not tell those of all
            task.rows_of_one = max(task.rows_of_one, self._pruner.asked // len(self.rows))
            task.answers = {number: task.answers[number] for number in task.waves.waiting}
            task.rows += round(self._pruner.rows * self._calls[id(task)] / max(1, sum(self._calls.values())))

    def _pipe_arguments(self) -> dict[str, Any]:
        generators = [torch.Generator().manual_seed(task.seed_of(number)) for task, number in self.rows]
        prompts, several = [task.prompt for task, _ in self.rows], {}
        if len(self._waves) == 1 and "num_images_per_prompt" in inspect.signature(self._pipe.__call__).parameters:
            # embedded once; for several prompts, some pipelines repeat masks in another order than embeddings
            prompts, several = prompts[:1], {"num_images_per_prompt": len(self.rows)}
        arguments = as_called(self._pipe, self._arguments, len(prompts))
        return {**arguments, **several, "prompt": prompts, "generator": generators}

    def _computed(self) -> list[int]:
        return self._pruner.computed(self.rows[0][0].waves.rules.compiled)

    def _reported(self, position: int, latents: torch.Tensor, signals: Mapping[int, Known]) -> None:
        steps = self.rows[0][0].waves.rules.steps
        if self._watch.steps != steps:
            raise NbenchError(
                f"{type(self._pipe).__name__} runs {self._watch.steps} steps for num_inference_steps={steps}: "
                "leave out what shortens its run (denoising_end), or choose a number of steps that it runs exactly"
            )
        self._position = position
        self._live.fit(latents)
        if position:
            self._count(1)
        self._check_copies(latents)
        for at, read_signal in signals.items():
            self._stage(at, read_signal, latents)
        cancelled = {id(task) for task, _ in self._waves if task.cancelled()}
        self._keep([row for row in self._pruner.living if id(self.rows[row][0]) not in cancelled])
        for task, numbers in self._waves:
            if position and task.progress is not None and id(task) not in cancelled:
                living = tuple(self.rows[row][1] for row in self._ahead if self.rows[row][0] is task)
                if not living and task.waves.recalled:  # the run comes to where they stopped
                    continue
                latest = {n: list(task.scores[n].values())[-1] for n in numbers if task.scores[n]}
                task.progress(Progress(position, steps, living, latest))

    def _reads_noise(self) -> bool:
        """Whether anything is to be scored before the first call."""
        stages = self.rows[0][0].waves.rules.stages
        return self._live.scores_noise and (stages[0].position == 0 or 0 in self._live.observes)

    def _count(self, calls: int) -> None:
        """Note so many denoiser calls of each candidate that the denoiser computes."""
        for row in self._computed():
            task = self.rows[row][0]
            task.waves.spent += calls
            self._calls[id(task)] += calls

    def _keep(self, rows: Sequence[int]) -> None:
        if not rows:
            raise _Ended
        self._pruner.keep(rows)

    def _drop(self, rows: Collection[int], position: int) -> None:
        """Drop the living candidates of `rows`, whose images are not finite, so that none is selected."""
        for row in (row for row in self._pruner.living if row in rows):
            task, number = self.rows[row]
            task.left_at[number] = position
            task.waves.drop(number)
        self._keep([row for row in self._pruner.living if row not in rows])

    def _stage(self, position: int, read_signal: Known, latents: torch.Tensor) -> None:
        """If the policy has a stage here, score the living candidates and drop the losers."""
        stages = self.rows[0][0].waves.rules.stages
        index = next((i for i, stage in enumerate(stages) if stage.position == position), None)
        if index is None:
            if self._ahead and position in self._live.observes:
                self._live.score(self._scored(self._ahead), self._watch.at(position), read_signal()[self._ahead])
            return
        if position == self._restarting:
            self._pruner.forget()
        remaining: defaultdict[int, list[int]] = defaultdict(list)  # by the task's id()
        for task, number in map(self.rows.__getitem__, self._pruner.living):
            if task.waves.decided <= index:  # else it was, before they were recalled
                remaining[id(task)].append(number)
        undecided = {
            id(task)
            for task, _ in self._waves
            if remaining[id(task)] and task.waves.undecided(index, remaining[id(task)])
        }
        living = [row for row in self._pruner.living if id(self.rows[row][0]) in undecided]
        if not living:
            return
        kept = [row for row in self._pruner.living if row not in living]
        candidates = [self.rows[row] for row in living]
        rows = self._scored(living)
        everyone = self._pruner.living
        self._pruner.keep(living)  # a look-ahead calls the denoiser, for those who are scored
        with self._pruner.beside():
            signal = read_signal()[living]
        self._count(extra_calls(self._live.calls, position, self.rows[0][0].waves.rules.steps))
        self._pruner.keep(everyone)
        scores = self._live.score(rows, self._watch.at(position), signal)
        for task, _ in self._waves:
            own = {number: score for (other, number), score in zip(candidates, scores, strict=True) if other is task}
            if own:
                stay = task.decide(index, own, position)
                kept += [row for row in living if self.rows[row][0] is task and self.rows[row][1] in stay]
                if stages[index].resample is not None and stay:
                    self._resample(task, index, stay)
        pictures = signal if signal.ndim == 4 else latents[living]  # gaps and activations cannot be drawn
        for (task, number), row, picture in zip(candidates, living, pictures, strict=True):
            if row not in kept:
                self._keep_picture(task, number, picture)
        if position == self._restarting and any(task.waves.redraws or task.waves.returns for task in self._tasks):
            for task, _ in self._waves:
                if any(self.rows[row][0] is task for row in kept):
                    task.waves.pause(index)
            kept = []
        self._keep(kept)

    def _resample(self, task: Task, index: int, stay: Sequence[int]) -> None:
        """Let the candidates of `task` that stay go on as copies of those that were drawn."""
        drawn = np.random.default_rng([task.seed_of(0), index]).random()
        row_of = {number: row for row, (other, number) in enumerate(self.rows) if other is task}
        ancestors = task.waves.ancestors(index, stay, drawn)
        copies = {row_of[number]: row_of[ancestor] for number, ancestor in ancestors.items() if number != ancestor}
        if copies:
            self._live.copy({(id(task), number): (id(task), ancestor) for number, ancestor in ancestors.items()})
            self._watch.copy(copies)
            self._copies |= copies

    def _check_copies(self, latents: torch.Tensor) -> None:
        """A step after candidates were copied: noise must have told them apart."""
        copies, self._copies = self._copies, {}
        pairs = [(latents[row], latents[source]) for row, source in copies.items() if source not in copies]
        if any(torch.allclose(copy, source, rtol=0, atol=_ROUNDING) for copy, source in pairs):
            raise NbenchError(
                f"{type(self._pipe.scheduler).__name__} draws no noise, so copies of a candidate stay equal: use a "
                "stochastic scheduler (--scheduler FlowMatchLCM for flow models, EulerAncestral for others)"
            )

    def _scored(self, rows: Sequence[int]) -> Rows:
        """The trajectories of some rows of the batch."""
        tasks, numbers = zip(*(self.rows[row] for row in rows), strict=True)
        prompts = {PROMPT: [task.prompt for task in tasks]}
        return Rows([task.prompt_id for task in tasks], numbers, prompts, [id(task) for task in tasks])

    def _keep_picture(self, task: Task, number: int, picture: torch.Tensor) -> None:
        if self._live.reads_images:
            task.images[number] = as_pixels(picture.permute(1, 2, 0).numpy())
        elif self._live.preview_map is not None:
            task.previews[number] = preview_image(picture.float().cpu().numpy(), self._live.preview_map)
