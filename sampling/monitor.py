"""Scores a running pipeline at each position, and stops runs that score too low."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

import torch

from ..benchmarks.metrics.declaration import or_none
from ..errors import NbenchError
from ..pipelines.latent_space import preview_of, space_from
from ..pipelines.watch import Known, Watch
from ..scorers.apply import Rows
from ..scorers.function import as_scorer
from ..scorers.protocols import Reads, Scorer
from ..shards.schema import PreviewMap
from ..shards.scores import PROMPT
from .live_scorer import LiveScorer, NamedFit
from .waves import best

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN_ROWS = 4


class RunStopped(NbenchError):
    """A monitor stopped a run because every image scored too low; `scores` holds one score per image at `position`."""

    def __init__(self, position: int, steps: int, scores: list[float], least: float) -> None:
        highest = scores[best(dict(enumerate(scores)))[0]]
        super().__init__(
            f"stopped at position {position} of {steps}: the best score {highest:.3g} is below {least:g}; "
            "try another seed or prompt"
        )
        self.position, self.scores = position, scores


class AlignmentMonitor:
    """Scores the images of each call of `pipe` at `positions` while the context is open; the pipeline is not changed.

        with AlignmentMonitor(pipe, "noisyclip", prompt) as monitor:
            image = pipe(prompt).images[0]
        monitor.scores  # {1: [0.02], 2: [0.03], ...}

    Each call of the pipeline starts a new record. Batches of different prompts and several images per prompt work too.

    Args:
        scorer: a Scorer, the name of one that fits the pipeline's latent space, or a function of (inputs, prompts) that
            returns a score for each.
        prompt: the prompt of the call, or its list of prompts.
        positions: where to score, in 1..T (T: the finished latent); None: wherever the scorer's signal exists. The
            call raises NbenchError after its first step if it has no such position.
        stop_below: stops a run at the first position where no image reaches this score; the pipeline's call raises
            `RunStopped`.
        callback: called with (position, scores), one score per image; an exception in it ends the run too.
        show: draw a sparkline on stderr; None: if it is a terminal.
        log: JSON lines {"position", "steps", "scores"}, with null for scores that are not finite: a file to append to,
            or an open stream.
        preview: the latent space's linear map to RGB; None: the map stored with the pipeline or known by its name.
        reads: what a function is given, e.g. "latent", "x0_preview".

    Attributes:
        scores: by position, one per image, of the latest run.
        scorer_seconds: total scoring time of all runs.
    """

    def __init__(
        self,
        pipe: Any,
        scorer: Scorer | str | Callable[[Any, Sequence[str]], Any],
        prompt: str | Sequence[str],
        positions: Collection[int] | None = None,
        stop_below: float | None = None,
        callback: Callable[[int, list[float]], None] | None = None,
        show: bool | None = None,
        log: Path | str | TextIO | None = None,
        preview: PreviewMap | None = None,
        reads: Reads = "preview",
    ) -> None:
        self.scores: dict[int, list[float]] = {}
        self._pipe, self._scorer = pipe, scorer if isinstance(scorer, str) else as_scorer(scorer, reads)
        self._prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._positions = None if positions is None else frozenset(positions)
        self._stop_below, self._callback = stop_below, callback
        self._show = sys.stderr.isatty() if show is None else show
        self._log = log
        self._preview = preview or preview_of(pipe)
        self._fit = NamedFit(self._scorer, pipe, self._preview) if isinstance(self._scorer, str) else None
        self._live: LiveScorer | None = None if isinstance(self._scorer, str) else self._checked(self._scorer)
        self._stream: IO[str] | None = None
        self._watch = Watch(pipe, self._begin, self._reported, noise=self._scores_noise)

    @property
    def scorer_seconds(self) -> float:
        return self._live.seconds if self._live else 0.0

    def __enter__(self) -> AlignmentMonitor:
        self._watch.__enter__()
        if isinstance(self._log, (str, Path)):
            self._stream = Path(self._log).open("a", encoding="utf-8")
        else:
            self._stream = self._log
        return self

    def __exit__(self, *exception: object) -> None:
        self._watch.__exit__(*exception)
        if self._stream is not None and self._stream is not self._log:
            self._stream.close()

    def _checked(self, scorer: Scorer) -> LiveScorer:
        live = LiveScorer(scorer, self._preview, getattr(self._pipe, "vae", None))
        if live.reads_images:
            raise NbenchError(f"{scorer.name} reads finished images: use a scorer that reads latents or previews")
        if self._positions is not None:
            live.check(sorted(self._positions), None)
        return live

    def _begin(self, noise: torch.Tensor) -> Reads:
        self.scores = {}
        if self._live is None:
            assert self._fit is not None
            self._live = self._checked(self._fit.open(space_from(self._pipe, noise, self._preview)))
        elif self._fit is not None:
            self._fit(noise)
        return self._live.reads

    def _scores_noise(self) -> bool:
        return self._live is not None and self._live.scores_noise

    def _reported(self, position: int, latents: torch.Tensor, signals: Mapping[int, Known]) -> None:
        live = self._live
        assert live is not None
        if position == 1 and self._positions is not None:
            live.check(sorted(self._positions), self._watch.steps)
        for at, read_signal in signals.items():
            if (self._positions is None or at in self._positions) and at >= live.first:
                self._score(at, read_signal())
            elif at in live.observes:
                live.score(self._rows(len(latents)), self._watch.at(at), read_signal())

    def _score(self, position: int, signal: torch.Tensor) -> None:
        assert self._live is not None
        scores = self._live.score(self._rows(len(signal)), self._watch.at(position), signal)
        self.scores[position] = scores
        self._publish(position, scores)
        if self._stop_below is not None and not any(score >= self._stop_below for score in scores):
            raise RunStopped(position, self._watch.steps or position, scores, self._stop_below)

    def _rows(self, count: int) -> Rows:
        if count % len(self._prompts):
            raise NbenchError(
                f"{count} images for {len(self._prompts)} prompts: give the monitor the prompts of the pipeline's call"
            )
        per_prompt = count // len(self._prompts)
        prompts = [prompt for prompt in self._prompts for _ in range(per_prompt)]
        return Rows(prompts, [number % per_prompt for number in range(count)], {PROMPT: prompts})

    def _publish(self, position: int, scores: list[float]) -> None:
        steps = self._watch.steps
        if self._stream is not None:
            line = {"position": position, "steps": steps, "scores": list(map(or_none, scores))}
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        if self._show:
            last = position == steps or (self._positions is not None and position == max(self._positions))
            print(f"\r{self._line(position)}", end="\n" if last else "", file=sys.stderr, flush=True)
        if self._callback is not None:
            self._callback(position, scores)

    def _line(self, position: int) -> str:
        rows = list(zip(*self.scores.values(), strict=True))[:_SHOWN_ROWS]
        sparklines = "  ".join(f"{sparkline(row)} {row[-1]:.3f}" for row in rows)
        return f"{position}/{self._watch.steps} {sparklines}"


def sparkline(values: Sequence[float]) -> str:
    """Values as bars, scaled from the lowest to the highest; a blank for a value that is not finite.

    >>> sparkline([0, 1, math.nan, 2, 7])
    '▁▂ ▃█'
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)
