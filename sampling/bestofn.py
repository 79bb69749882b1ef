"""Best-of-N in a stock pipeline: candidates run in one batch, the worst leave as the policy says."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import NbenchError
from ..scorers.protocols import Scorer
from ..scorers.registry import get_scorer
from ..shards.inspect import preview_image
from ..shards.schema import PreviewMap
from ..shards.seeds import candidate_seed
from .policy import Policy, parse_policy
from .pruning import Pruner, is_compiled
from .reading import LiveScorer, Named
from .space import preview_of, space_of
from .watch import Watch
from .waves import Rules, Waves, stages_of

if TYPE_CHECKING:
    from PIL.Image import Image

_OURS = ("prompt", "generator", "latents", "num_images_per_prompt", "output_type", "return_dict")


@dataclass(frozen=True)
class Candidate:
    """One that was tried: its scores by position, and the position at which it left (None: it was selected).

    `seen` uint8 [H, W, 3] is the image of a finished one, else the preview of where it left (None: there is no map).
    """

    seed: int
    scores: dict[int, float]
    left_at: int | None
    seen: np.ndarray | None = field(repr=False)


@dataclass(frozen=True)
class BestOfNResult:
    """The selected images and their seeds, best first, and what they cost.

    `denoiser_rows` were computed, of `full_denoiser_rows` that n candidates without pruning take; guidance counts
    twice in both. `denoiser_calls` counts a candidate's step once, as budgets and policies do. `seconds` are all of
    it, `scorer_seconds` among them.
    """

    images: list[Image]
    seeds: list[int]
    candidates: list[Candidate]
    denoiser_rows: int
    full_denoiser_rows: int
    denoiser_calls: int
    seconds: float
    scorer_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """What `nbench sample --json` prints."""
        return {
            "selected": self.seeds,
            "candidates": [
                {"seed": one.seed, "scores": {str(k): v for k, v in one.scores.items()}, "left_at": one.left_at}
                for one in self.candidates
            ],
            "denoiser_rows": self.denoiser_rows,
            "full_denoiser_rows": self.full_denoiser_rows,
            "seconds": self.seconds,
            "scorer_seconds": self.scorer_seconds,
        }


class BestOfN:
    """Draws `n` candidates of a prompt and ends with the `keep` that `scorer` likes best.

    Args:
        pipe: a diffusers pipeline, which stays as it is.
        scorer: a Scorer, or the name of one that fits the pipeline's latent space.
        n: candidates.
        policy: positions and how many stay, "10:3,20:1" or a policy file; those who have not left by T are scored
            there. "50:1" of 50 steps prunes nothing: plain Best-of-N.
        keep: how many to end with; no stage leaves fewer.
        max_batch: so many candidates at a time, in waves; None: all at once.
        accept: a score at which a candidate is good enough: once `keep` are, the others leave and no more are drawn.
        restart: a score which the best of a wave must reach at every stage, or the wave ends and new seeds are drawn;
            the last wave that the budget covers goes on all the same.
        budget: denoiser calls (a candidate's step is one), never exceeded; fewer candidates are drawn where need be.
        seed: base seed; the candidates are those of a bench built with it.
        preview: the latent space's linear map to RGB; None: what the pipeline's folder or its name tells.

    Raises:
        NbenchError: something that does not fit, before anything is generated.
    """

    def __init__(
        self,
        pipe: Any,
        scorer: Scorer | str,
        n: int = 6,
        policy: Policy | str = "20:1",
        keep: int = 1,
        max_batch: int | None = None,
        accept: float | None = None,
        budget: int | None = None,
        restart: float | None = None,
        seed: int = 0,
        preview: PreviewMap | None = None,
    ) -> None:
        self.pipe, self.scorer, self.n, self.keep, self.seed = pipe, scorer, n, keep, seed
        self.policy = parse_policy(policy) if isinstance(policy, str) else policy
        self.max_batch, self.accept, self.budget, self.restart = max_batch, accept, budget, restart
        self._preview = preview or preview_of(pipe)

    def best(self, prompt: str, prompt_id: str | None = None, **pipe_kwargs: Any) -> BestOfNResult:
        """The best images of `prompt`.

        `prompt_id` names the prompt as the bench does whose candidates these are (None: the prompt itself);
        `pipe_kwargs` go to the pipeline.

        Raises:
            NbenchError: arguments that are not the caller's to give, a policy that does not fit the steps.
        """
        taken = inspect.signature(self.pipe.__call__).parameters
        self._refuse(pipe_kwargs, taken)
        steps = int(pipe_kwargs.get("num_inference_steps", taken["num_inference_steps"].default))
        self.policy.check(self.n, steps)
        rules = Rules(
            stages_of(self.policy, steps, self.keep),
            steps,
            self.n,
            self.keep,
            self.max_batch,
            self.accept,
            self.restart,
            self.budget,
            compiled=is_compiled(self.pipe),
        )
        live = self._live(pipe_kwargs)
        live.check([stage.position for stage in rules.stages], steps)
        start = time.perf_counter()
        run = _Run(self.pipe, Waves(rules), live, prompt, prompt if prompt_id is None else prompt_id, self.seed)
        while numbers := run.waves.next():
            run.wave(numbers, pipe_kwargs)
        return run.result(time.perf_counter() - start)

    def _live(self, pipe_kwargs: dict[str, Any]) -> LiveScorer:
        if isinstance(self.scorer, str):
            self.scorer = get_scorer(self.scorer, space_of(self.pipe, self._preview, pipe_kwargs))
        return LiveScorer(self.scorer, self._preview)

    def _refuse(self, pipe_kwargs: dict[str, Any], taken: Any) -> None:
        for name in pipe_kwargs:
            if name in _OURS:
                raise NbenchError(f"{name} is set by BestOfN itself: leave it out")
            if name not in taken:
                raise NbenchError(f"{type(self.pipe).__name__} takes no {name}: leave it out")


class _Ended(Exception):
    """Nobody of the wave goes on."""


class _Run:
    """A prompt's candidates, wave by wave."""

    def __init__(self, pipe: Any, waves: Waves, live: LiveScorer, prompt: str, prompt_id: str, seed: int) -> None:
        self.pipe, self.waves, self.live = pipe, waves, live
        self.prompt, self.prompt_id, self.seed = prompt, prompt_id, seed
        self.scores: dict[int, dict[int, float]] = {}
        self.left_at: dict[int, int] = {}
        self.images: dict[int, np.ndarray] = {}
        self.previews: dict[int, np.ndarray] = {}
        self.rows = self.asked = self.asked_calls = 0

    def seeds(self, numbers: range) -> list[int]:
        return [candidate_seed(self.seed, self.prompt_id, number) for number in numbers]

    def wave(self, numbers: range, arguments: dict[str, Any]) -> None:
        """Run candidates `numbers` until they leave or are finished."""
        rules = self.waves.rules
        self.scores |= {number: {} for number in numbers}
        with Pruner(self.pipe, len(numbers)) as pruner:
            compiled = rules.compiled

            def seen(position: int, latents: torch.Tensor) -> None:
                if position == 0:
                    if watch.steps != rules.steps:
                        asked = f"{watch.steps} steps when asked for {rules.steps}"
                        raise NbenchError(f"{type(self.pipe).__name__} runs {asked}: ask so")
                    return
                self.waves.spent += len(pruner.computed(compiled))
                self.asked_calls += len(numbers)
                if not (position == rules.steps and self.live.reads_images):
                    self._stage(position, numbers, pruner, latents)

            watch = Watch(self.pipe, seen)
            try:
                with watch:
                    images = self.pipe(
                        prompt=self.prompt,
                        num_images_per_prompt=len(numbers),
                        generator=[torch.Generator().manual_seed(seed) for seed in self.seeds(numbers)],
                        output_type="np",
                        **arguments,
                    ).images
                if self.live.reads_images:
                    self._stage(rules.steps, numbers, pruner, torch.from_numpy(images).permute(0, 3, 1, 2))
            except _Ended:
                if hasattr(self.pipe, "maybe_free_model_hooks"):
                    self.pipe.maybe_free_model_hooks()  # as the pipeline does at its own end
            else:
                self.images |= {numbers[row]: _pixels(images[row]) for row in pruner.living}
            self.rows, self.asked = self.rows + pruner.rows, self.asked + pruner.asked

    def _stage(self, position: int, numbers: range, pruner: Pruner, known: torch.Tensor) -> None:
        """Score the living, if the policy says so here, and stop those who leave."""
        index = next((i for i, stage in enumerate(self.waves.rules.stages) if stage.position == position), None)
        if index is None:
            return
        living = [numbers[row] for row in pruner.living]
        known = known[pruner.living]
        named = Named([self.prompt_id] * len(living), [self.prompt] * len(living), living)
        found = dict(zip(living, self.live.score(named, position, known), strict=True))
        kept = self.waves.decide(index, found)
        for row, (number, score) in enumerate(found.items()):
            self.scores[number][position] = score
            if number not in kept:
                self.left_at[number] = position
                self._remember(number, known[row])
        if not kept:
            raise _Ended
        pruner.keep([number - numbers[0] for number in kept])

    def _remember(self, number: int, known: torch.Tensor) -> None:
        if self.live.reads_images:
            self.images[number] = _pixels(known.permute(1, 2, 0).numpy())
        elif self.live.preview_map is not None:
            self.previews[number] = preview_image(known.float().cpu().numpy(), self.live.preview_map)

    def result(self, seconds: float) -> BestOfNResult:
        from PIL import Image

        rules, selected = self.waves.rules, self.waves.selected()
        seeds = dict(zip(self.scores, self.seeds(range(len(self.scores))), strict=True))
        left = {number: rules.steps for number in self.scores if number not in selected} | self.left_at
        seen = self.previews | self.images
        return BestOfNResult(
            images=[Image.fromarray(self.images[number]) for number in selected],
            seeds=[seeds[number] for number in selected],
            candidates=[Candidate(seeds[i], scores, left.get(i), seen.get(i)) for i, scores in self.scores.items()],
            denoiser_rows=self.rows,
            full_denoiser_rows=round(rules.n * rules.steps * self.asked / self.asked_calls),
            denoiser_calls=self.waves.spent,
            seconds=seconds,
            scorer_seconds=self.live.seconds,
        )


def _pixels(image: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
