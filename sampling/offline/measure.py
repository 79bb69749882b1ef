"""Measures what a step, a score and a decode of batches of each size take on this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...pipelines.calling import RunEnded, call_pipeline
from ...pipelines.latent_layout import float32_noise
from ...pipelines.latent_space import preview_of
from ...pipelines.options import as_called
from ...pipelines.pruning import Pruner, reserved
from ...pipelines.step_tap import own_noise
from ...pipelines.vae import decode
from ...pipelines.watch import Known, Watch
from ...scorers.apply import Rows
from ...scorers.protocols import Scorer
from ...shards.schema import PositionInfo, PreviewMap
from ...shards.scores import PROMPT
from ..live_scorer import LiveScorer
from .cost_file import CostFile

_ROUNDS = 6
"""Times that every size is measured; the fastest counts."""


def measure(
    pipe: Any,
    arguments: Mapping[str, Any],
    scorer: Scorer,
    prompts: Sequence[str],
    n: int,
    preview: PreviewMap | None = None,
) -> CostFile:
    """Seconds per prompt for 1 to n candidates of each of `prompts` at a time, in runs whose batch is cut as live.

    On the CPU these are processor seconds. Sizes take turns step by step, so that a machine that gets slower does so
    for all of them.

    Raises:
        NbenchError: the pipeline cannot be pruned, or the scorer cannot score a running pipeline.
    """
    live = LiveScorer(scorer, preview or preview_of(pipe), getattr(pipe, "vae", None))
    run = _Run(pipe, dict(arguments), live, prompts, n)
    with reserved(pipe), torch.no_grad():
        while min(map(len, run.seconds.values()), default=0) < _ROUNDS:
            run()
        rows = {count: run.rows(count) for count in range(1, n + 1)}
        decoded = _decoder(pipe, run.latents)
        images = decoded(rows[n]) if live.reads_images else None
        signal = run.signal if images is None else images

        def scored(own: Sequence[int]) -> None:
            texts = [prompts[row // n] for row in own]
            live.score(Rows(texts, [row % n for row in own], {PROMPT: texts}), run.at, signal[own])

        score, decoding = (_timed(each, rows.values(), run.clock) for each in (scored, decoded))
    share = 1 / len(prompts)
    return CostFile(
        model=scorer.name,
        pipeline=type(pipe).__name__,
        device=str(run.latents.device),
        threads=torch.get_num_threads(),
        prompts=len(prompts),
        step_seconds=[min(run.seconds[count]) * share for count in range(1, n + 1)],
        score_seconds=[seconds * share for seconds in score],
        decode_seconds=[seconds * share for seconds in decoding],
    )


class _Run:
    """A run of the pipeline whose batch has another size at every step. `seconds`: by candidates of each prompt."""

    def __init__(self, pipe: Any, arguments: dict[str, Any], live: LiveScorer, prompts: Sequence[str], n: int) -> None:
        self._pipe, self._arguments, self._live, self._prompts, self._n = pipe, arguments, live, prompts, n
        self.seconds: defaultdict[int, list[float]] = defaultdict(list)
        self.signal = self.latents = torch.empty(0)
        self.at: PositionInfo
        self._began, self._warm = 0.0, False

    def rows(self, count: int) -> list[int]:
        """The rows of the first `count` candidates of each prompt."""
        return [prompt * self._n + candidate for prompt in range(len(self._prompts)) for candidate in range(count)]

    def clock(self) -> float:
        """Seconds when all that was asked of the device is done; on the CPU, of this process alone."""
        if not self.latents.is_cuda:
            return time.process_time()
        torch.cuda.synchronize(self.latents.device)
        return time.perf_counter()

    def __call__(self) -> None:
        texts = [prompt for prompt in self._prompts for _ in range(self._n)]
        generators = [torch.Generator().manual_seed(row) for row in range(len(texts))]
        pruner = Pruner(self._pipe, len(texts), self._arguments)

        def seen(position: int, latents: torch.Tensor, signals: Mapping[int, Known]) -> None:
            self.latents = latents
            now, steps = self.clock(), self._arguments["num_inference_steps"]
            if position > 1 or self._warm:
                self.seconds[self._size(position - 1)].append(now - self._began)
            if position == 1 and signals:
                ((at, read),) = signals.items()
                self.signal, self.at = read(), watch.at(at)
            if position == 1 and not signals:
                self.at = watch.at(position)
            if position == steps:
                self._warm = True
                raise RunEnded
            pruner.keep(self.rows(self._size(position)))
            self._began = self.clock()

        watch = Watch(self._pipe, lambda _: self._live.reads, seen, lambda: pruner.living)
        arguments = as_called(self._pipe, self._arguments, len(texts))
        try:
            with pruner, watch, float32_noise(self._pipe), own_noise(self._pipe, generators):
                self._began = self.clock()
                call_pipeline(self._pipe, **arguments, prompt=texts, generator=generators)
        except RunEnded:
            if hasattr(self._pipe, "maybe_free_model_hooks"):
                self._pipe.maybe_free_model_hooks()

    def _size(self, step: int) -> int:
        """Candidates of each prompt at a step: all at the first one, whose signal is kept."""
        return self._n - step % self._n


def _decoder(pipe: Any, latents: torch.Tensor) -> Callable[[Sequence[int]], torch.Tensor]:
    vae = getattr(pipe, "vae", None)
    return lambda rows: latents[list(rows)] if vae is None else decode(vae, latents[list(rows)])


def _timed(work: Callable[[Sequence[int]], Any], sizes: Any, clock: Callable[[], float]) -> list[float]:
    sizes = list(sizes)
    seconds: list[list[float]] = [[] for _ in sizes]
    for turn in range(_ROUNDS + 1):
        for rows, own in zip(sizes, seconds, strict=True):
            began = clock()
            work(rows)
            if turn:
                own.append(clock() - began)
    return [min(own) for own in seconds]
