"""Best-of-N in a stock pipeline: candidates run in one batch, the worst leave as the policy says."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..benchmarks.metrics.declaration import or_none
from ..errors import NbenchError
from ..pipelines.latent_space import preview_of, space_of
from ..pipelines.pruning import is_compiled
from ..scorers.protocols import Scorer
from ..scorers.registry import get_scorer
from ..shards.schema import PreviewMap
from .live_scorer import LiveScorer
from .policy import Policy, parse_policy
from .pruned_batch import Batch, Task
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
        """What `nbench sample --json` prints; a score that is no number is null."""
        return {
            "selected": self.seeds,
            "candidates": [
                {
                    "seed": one.seed,
                    "scores": {str(k): or_none(v) for k, v in one.scores.items()},
                    "left_at": one.left_at,
                }
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
            there. "50:1" of 50 steps prunes nothing: plain Best-of-N. "4,10:3,20:1" draws four of the n.
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
        return self.best_each([prompt], None if prompt_id is None else [prompt_id], **pipe_kwargs)[0]

    def best_each(
        self, prompts: Sequence[str], prompt_ids: Sequence[str] | None = None, **pipe_kwargs: Any
    ) -> list[BestOfNResult]:
        """The best images of each prompt; as many prompts at a time as `max_batch` has room for.

        Candidates compete within their prompt only, and a budget is each prompt's own. The survivors of many prompts
        fill a batch which one prompt's do not, and a device that a small batch does not fill takes as long for it.
        Seconds are equal shares of those of the prompts that ran together.
        """
        taken = inspect.signature(self.pipe.__call__).parameters
        self._refuse(pipe_kwargs, taken)
        steps = int(pipe_kwargs.get("num_inference_steps", taken["num_inference_steps"].default))
        self.policy.check(self.n, steps)
        drawn = self.policy.of(self.n)
        if isinstance(self.scorer, str):
            self.scorer = get_scorer(self.scorer, space_of(self.pipe, self._preview, pipe_kwargs))
        live = self._live(self.scorer)
        rules = Rules(
            stages_of(self.policy, steps, self.keep),
            steps,
            drawn,
            self.keep,
            self.max_batch,
            self.accept,
            self.restart,
            self.budget,
            lag=live.lag,
            compiled=is_compiled(self.pipe),
        )
        if rules.compiled and rules.budget is not None and len(prompts) > 1:
            raise NbenchError("a compiled denoiser fills its batch up across prompts: give a budget for one at a time")
        live.check([stage.position for stage in rules.stages], steps)
        named = list(zip(prompts, prompts if prompt_ids is None else prompt_ids, strict=True))
        at_once = max(1, self.max_batch // drawn if self.max_batch else len(named))
        return [
            result
            for first in range(0, len(named), at_once)
            for result in self._together(self.scorer, named[first : first + at_once], rules, pipe_kwargs)
        ]

    def _together(
        self, scorer: Scorer, named: list[tuple[str, str]], rules: Rules, pipe_kwargs: dict[str, Any]
    ) -> list[BestOfNResult]:
        start, live = time.perf_counter(), self._live(scorer)
        tasks = [Task(prompt, prompt_id, self.seed, Waves(rules)) for prompt, prompt_id in named]
        while (batch := Batch(self.pipe, live, tasks, pipe_kwargs)).rows:
            batch.run()
        share = (time.perf_counter() - start) / len(tasks), live.seconds / len(tasks)
        return [_result(task, self.n, *share) for task in tasks]

    def _live(self, scorer: Scorer) -> LiveScorer:
        return LiveScorer(scorer, self._preview, getattr(self.pipe, "vae", None))

    def _refuse(self, pipe_kwargs: dict[str, Any], taken: Mapping[str, Any]) -> None:
        for name in pipe_kwargs:
            if name in _OURS:
                raise NbenchError(f"{name} is set by BestOfN itself: leave it out")
            if name not in taken and not (name == "guidance_scale" and "true_cfg_scale" in taken):
                raise NbenchError(f"{type(self.pipe).__name__} takes no {name}: leave it out")


def _result(task: Task, n: int, seconds: float, scorer_seconds: float) -> BestOfNResult:
    from PIL import Image

    rules, selected = task.waves.rules, task.waves.selected()
    seen = task.previews | task.images
    left = {number: rules.steps for number in task.scores if number not in selected} | task.left_at
    return BestOfNResult(
        images=[Image.fromarray(task.images[number]) for number in selected],
        seeds=[task.seed_of(number) for number in selected],
        candidates=[Candidate(task.seed_of(i), scores, left.get(i), seen.get(i)) for i, scores in task.scores.items()],
        denoiser_rows=task.rows,
        full_denoiser_rows=n * rules.steps * task.rows // task.waves.spent,
        denoiser_calls=task.waves.spent,
        seconds=seconds,
        scorer_seconds=scorer_seconds,
    )
