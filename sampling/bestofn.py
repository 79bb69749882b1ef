"""Best-of-N in a stock pipeline: candidates run in one batch, and the policy drops the worst."""

from __future__ import annotations

import inspect
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..benchmarks.metrics.declaration import or_none
from ..errors import NbenchError, one_line
from ..pipelines.calling import NOT_FINITE
from ..pipelines.latent_layout import check_prepares
from ..pipelines.latent_space import preview_of, space_of
from ..pipelines.prompt_groups import prompt_groups
from ..pipelines.pruning import is_compiled, reserved
from ..scorers.function import as_scorer
from ..scorers.protocols import Reads, Scorer
from ..shards.schema import PreviewMap
from ..shards.signals import LAYERED
from .live_scorer import LiveScorer, NamedFit
from .policy import Policy, parse_policy
from .pruned_batch import Batch, Task
from .waves import Rules, Waves, stages_of

if TYPE_CHECKING:
    from PIL.Image import Image

_RESERVED = ("prompt", "generator", "latents", "num_images_per_prompt", "output_type", "return_dict")


@dataclass(frozen=True)
class Candidate:
    """One candidate: its scores by position, and the position at which it was dropped (None: it was selected).

    `seen` uint8 [H, W, 3] is the image of a finished candidate, else the preview at the position where it was dropped
    (None: the pipeline has no preview map).
    """

    seed: int
    scores: dict[int, float]
    left_at: int | None
    seen: np.ndarray | None = field(repr=False)


@dataclass(frozen=True)
class BestOfNResult:
    """The selected images and their seeds, best first, and what they cost.

    `denoiser_rows` is the number of rows computed; `full_denoiser_rows` is the number that n candidates take without
    pruning. Guidance counts twice in both. `denoiser_calls` counts each step of a candidate once, as budgets and
    policies do. `seconds` is the total time and includes `scorer_seconds`.
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
        """What `nbench sample --json` prints; a score that is not a finite number is null."""
        return {
            "selected": self.seeds,
            "candidates": [
                {
                    "seed": candidate.seed,
                    "scores": {str(k): or_none(v) for k, v in candidate.scores.items()},
                    "left_at": candidate.left_at,
                }
                for candidate in self.candidates
            ],
            "denoiser_rows": self.denoiser_rows,
            "full_denoiser_rows": self.full_denoiser_rows,
            "seconds": self.seconds,
            "scorer_seconds": self.scorer_seconds,
        }


class BestOfN:
    """Draws `n` candidates per prompt and selects the `keep` that `scorer` rates highest.

    Args:
        pipe: a diffusers pipeline; it is not changed.
        scorer: a Scorer, the name of one that fits the pipeline's latent space, or a function of (inputs, prompts) that
            returns a score for each.
        n: candidates per prompt.
        policy: positions and how many candidates stay, "10:3,20:1", or a policy file. Candidates that reach T are
            scored there. With 50 steps "50:1" prunes nothing: plain Best-of-N. "4,10:3,20:1" draws four of the n.
        keep: how many images to select; no stage keeps fewer.
        max_batch: candidates per batch, run in waves; None: all at once.
        accept: a score that is good enough: once `keep` candidates reach it, the others are dropped and no more drawn.
        restart: a score that the best candidate of a wave must reach at every stage; otherwise the wave ends and new
            seeds are drawn. When the budget covers no other wave, the best of all that stopped goes on.
        budget: maximum number of denoiser calls (one step of one candidate is one call); it lowers the number of
            candidates if needed.
        seed: base seed; a bench built with the same base seed has the same candidates.
        preview: the latent space's linear map to RGB; None: the map stored with the pipeline or known by its name.
        reads: what a function is given, e.g. "latent", "x0_preview".

    Raises:
        NbenchError: arguments that do not fit together; raised before anything is generated.
    """

    def __init__(
        self,
        pipe: Any,
        scorer: Scorer | str | Callable[[Any, Sequence[str]], Any],
        n: int = 6,
        policy: Policy | str = "20:1",
        keep: int = 1,
        max_batch: int | None = None,
        accept: float | None = None,
        budget: int | None = None,
        restart: float | None = None,
        seed: int = 0,
        preview: PreviewMap | None = None,
        reads: Reads = "preview",
    ) -> None:
        self.pipe, self.n, self.keep, self.seed = pipe, n, keep, seed
        self.scorer = scorer if isinstance(scorer, str) else as_scorer(scorer, reads)
        self.policy = parse_policy(policy) if isinstance(policy, str) else policy
        self.max_batch, self.accept, self.budget, self.restart = max_batch, accept, budget, restart
        self._preview = preview or preview_of(pipe)
        self._fit = NamedFit(scorer, pipe, self._preview) if isinstance(scorer, str) else None

    def best(self, prompt: str, prompt_id: str | None = None, **pipe_kwargs: Any) -> BestOfNResult:
        """The best images of `prompt`.

        `prompt_id` is the prompt's id in a bench, to draw that bench's candidates (None: the prompt itself).
        `pipe_kwargs` go to the pipeline.

        Raises:
            NbenchError: arguments that BestOfN sets itself, or a policy that does not fit the steps.
        """
        return self.best_each([prompt], None if prompt_id is None else [prompt_id], **pipe_kwargs)[0]

    def best_each(
        self, prompts: Sequence[str], prompt_ids: Sequence[str] | None = None, **pipe_kwargs: Any
    ) -> list[BestOfNResult]:
        """The best images of each prompt; runs as many prompts at a time as fit into `max_batch`.

        Candidates compete within their prompt only, and the budget is per prompt. The survivors of one prompt make a
        small batch, which takes a device almost as long as a full one; the survivors of many prompts fill the batch.
        Seconds of prompts that ran together are divided equally among them.

        Raises:
            NbenchError: as `best`, or prompts that `pairs_of` refuses.
        """
        with reserved(self.pipe):
            rules = self.rules(pipe_kwargs)
            if rules.compiled and rules.budget is not None and len(prompts) > 1:
                raise NbenchError(
                    "a budget with a compiled denoiser works for one prompt only: pass one prompt at a time"
                )
            pairs = pairs_of(prompts, prompt_ids)
            at_once = max(1, self.max_batch // rules.n if self.max_batch else len(pairs))
            results: dict[int, BestOfNResult] = {}
            for group in prompt_groups(self.pipe, [prompt for prompt, _ in pairs], pipe_kwargs, self.pooled):
                for first in range(0, len(group), at_once):
                    some = group[first : first + at_once]
                    selected = self._together([pairs[i] for i in some], rules, pipe_kwargs)
                    results.update(zip(some, selected, strict=True))
            return [results[i] for i in range(len(pairs))]

    def rules(self, pipe_kwargs: dict[str, Any], keep: int | None = None) -> Rules:
        """The rules of a run with `pipe_kwargs` that keeps `keep` (None: the usual number); loads the scorer.

        Raises:
            NbenchError: arguments that BestOfN sets itself, or a policy or scorer that does not fit the run.
        """
        keep = self.keep if keep is None else keep
        check_prepares(self.pipe)
        parameters = inspect.signature(self.pipe.__call__).parameters
        self._refuse(pipe_kwargs, parameters)
        wanted = pipe_kwargs.get("num_inference_steps", parameters["num_inference_steps"].default)
        try:
            steps = operator.index(wanted)
        except TypeError:
            raise NbenchError(f"num_inference_steps={wanted} is no number of steps: give a whole one, as 50") from None
        self.policy.check(self.n, steps)
        self.policy.check_calibrated()
        if isinstance(self.scorer, str):
            space = replace(space_of(self.pipe, self._preview, pipe_kwargs), steps=steps)
            assert self._fit is not None
            self.scorer = self._fit.open(space)
        live = self.live()
        rules = Rules(
            stages_of(self.policy, steps, keep),
            steps,
            self.policy.of(self.n),
            keep,
            self.max_batch,
            self.accept,
            self.restart,
            self.budget,
            calls_per_score=live.calls,
            compiled=is_compiled(self.pipe),
            most=self.n if self.policy.restarts else None,
        )
        live.check([stage.position for stage in rules.stages], steps)
        if self.policy.stages[0].position == 0 and self.policy.stages[0].resample is not None and not live.calls:
            raise NbenchError(f"policy {self.policy} copies noise before the first step: resample at 1 or later")
        return rules

    def live(self) -> LiveScorer:
        """The scorer, ready for a run; `rules` has loaded it."""
        assert not isinstance(self.scorer, str)
        return LiveScorer(self.scorer, self._preview, getattr(self.pipe, "vae", None), self._fit)

    @property
    def pooled(self) -> bool:
        """Whether the scorer reads averages over tokens, to which masked padding counts."""
        return self.live().reads.startswith(LAYERED)

    def _together(self, pairs: list[tuple[str, str]], rules: Rules, pipe_kwargs: dict[str, Any]) -> list[BestOfNResult]:
        start, live = time.perf_counter(), self.live()
        tasks = [Task(prompt, prompt_id, self.seed, Waves(rules)) for prompt, prompt_id in pairs]
        while (batch := Batch(self.pipe, live, tasks, pipe_kwargs)).rows:
            batch.run()
        share = (time.perf_counter() - start) / len(tasks), live.seconds / len(tasks)
        return [result_of(task, self.n, *share) for task in tasks]

    def _refuse(self, pipe_kwargs: dict[str, Any], parameters: Mapping[str, Any]) -> None:
        for name in pipe_kwargs:
            if name in _RESERVED:
                raise NbenchError(f"{name} is set by BestOfN itself: leave it out")
            if name not in parameters and not (name == "guidance_scale" and "true_cfg_scale" in parameters):
                raise NbenchError(f"{type(self.pipe).__name__} has no argument {name}: leave it out")


def pairs_of(prompts: Iterable[str], prompt_ids: Iterable[str] | None) -> list[tuple[str, str]]:
    """Each prompt with its id: that of `prompt_ids`, or the prompt itself.

    Raises:
        NbenchError: one text, whose letters would each be a prompt; something else than text; another number of ids.
    """
    if isinstance(prompts, str):
        raise NbenchError(f"{one_line(prompts, 60)!r} is one prompt, not a list of them: write [prompt]")
    prompts = list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise NbenchError(
                f"{one_line(repr(prompt), 60)} is not a prompt: give one text, or several to best_each or Engine.map"
            )
    ids = prompts if prompt_ids is None else list(prompt_ids)
    if len(ids) != len(prompts):
        raise NbenchError(f"{len(ids)} prompt ids for {len(prompts)} prompts: give one for each")
    return list(zip(prompts, ids, strict=True))


def result_of(task: Task, n: int, seconds: float, scorer_seconds: float) -> BestOfNResult:
    """What was selected of the candidates of a finished task.

    Raises:
        NbenchError: no candidate is left.
    """
    from PIL import Image

    rules, selected = task.waves.rules, task.waves.selected()
    if not selected:
        raise NbenchError(f"no candidate is left of {one_line(task.prompt, 60)!r}: {NOT_FINITE}")
    pictures = task.previews | task.images
    left = {number: rules.steps for number in task.scores if number not in selected} | task.left_at
    return BestOfNResult(
        images=[Image.fromarray(task.images[number]) for number in selected],
        seeds=[task.seed_of(number) for number in selected],
        candidates=[
            Candidate(task.seed_of(i), scores, left.get(i), pictures.get(i)) for i, scores in task.scores.items()
        ],
        denoiser_rows=task.rows,
        full_denoiser_rows=n * task.rows_of_one,
        denoiser_calls=task.waves.spent,
        seconds=seconds,
        scorer_seconds=scorer_seconds,
    )
