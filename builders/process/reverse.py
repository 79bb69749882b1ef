"""The reverse process: a pipeline denoises, prompt by prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import NbenchError
from ...pipelines.find import load_pipeline, resolve_pipeline, scheduler_spec
from ...pipelines.generate import Trajectories, generate
from ...shards.dataset import DatasetFolder
from ..candidates import Candidates, Plan
from ..config import BuildConfig
from ..planning.counts import PNG_SHARE, WORLD_PNG_SHARE, Count, count_known, count_read, published_prompts
from ..planning.timing import Timing, time_steps
from ..prompts.choose import PromptSet, load_prompts
from ..prompts.length import token_limits, too_long_note
from ..prompts.rows import Prompt
from ..spec import build_spec, call_arguments, maker_of

_TIMED_PROMPT = "two red circles above one blue square on gray background"


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline, and what it is called with."""

    pipe: Any
    arguments: dict[str, Any]

    def make(self, candidates: Candidates, positions: Collection[int], signals: Collection[str]) -> Trajectories:
        """The candidates, as the pipeline denoises them."""
        return generate(self.pipe, candidates.prompts, candidates.seeds, positions, self.arguments, signals)

    def note(self, prompts: Sequence[Prompt]) -> str:
        """How many prompts the text encoders will cut."""
        return too_long_note(prompts, token_limits(self.pipe, self.arguments))


@dataclass(frozen=True)
class Reverse:
    """The build of `config` by its pipeline; see `Process`."""

    config: BuildConfig

    def choose(self) -> PromptSet:
        """The prompts asked for."""
        return load_prompts(self.config.prompt_request, self.config.kind)

    def plan(self, chosen: PromptSet) -> Plan:
        """Each prompt with its candidates."""
        entry = resolve_pipeline(self.config.pipeline, self.config.options)
        spec = build_spec(self.config, entry, chosen.prompts, chosen.source)
        return Plan(self.config, entry, chosen.prompts, spec)

    def load(self, plan: Plan) -> LoadedPipeline:
        """The pipeline."""
        pipe = load_pipeline(plan.entry, plan.spec["dtype"], None, self.config.options)
        return LoadedPipeline(pipe, call_arguments(plan.spec))

    def finish(self, plan: Plan, folder: DatasetFolder) -> None:
        """Nothing: prompts come without tables."""

    def count(self, image_size: tuple[int, int]) -> Count:
        """The prompts, read unless their number is known."""
        request, n = self.config.prompt_request, self.config.n_candidates
        png_share = WORLD_PNG_SHARE if self.config.pipeline == "shapes" else PNG_SHARE
        published = published_prompts(request)
        if published is not None:
            return count_known(request, published, n, png_share)
        return count_read(self.config.kind, self.choose().prompts, n, png_share)

    def row_work(self, rows_a_step: int) -> tuple[int, int]:
        """All denoiser rows of a step; no image is encoded."""
        return rows_a_step, 0

    def time(self) -> Timing:
        """Run the pipeline for few and for more steps."""
        plan = self.plan(PromptSet([Prompt("timed", _TIMED_PROMPT)], "timing"))
        loaded = self.load(plan)

        def make(steps: int, batch: int) -> Trajectories:
            run = replace(loaded, arguments={**loaded.arguments, "num_inference_steps": steps})
            candidates = Candidates([(0, 0)] * batch, [_TIMED_PROMPT] * batch, range(batch))
            return run.make(candidates, range(steps + 1), self.config.signals)

        return time_steps(make, self.config.n_steps, plan.batch_size)

    @staticmethod
    def reload(spec: Mapping[str, Any], pipeline: str | None) -> LoadedPipeline:
        """The pipeline that made a data set, found by the name in its spec, or at `pipeline`.

        Raises:
            NbenchError: it is not within reach, or is another by now.
        """
        try:
            entry = maker_of(spec, pipeline)
        except NbenchError as error:
            raise NbenchError(f"{error}; --pipeline says where it lies") from None
        entry = replace(entry, quantize=spec.get("quantize"), attention=spec.get("attention"))
        if spec["scheduler"]["class"] != scheduler_spec(entry)["class"]:
            entry = replace(entry, scheduler=spec["scheduler"]["class"])
        return LoadedPipeline(load_pipeline(entry, spec["dtype"]), call_arguments(spec))
