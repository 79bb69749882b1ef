"""Settings of replay and tune: recorded scores, costs and budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...benchmarks.results.place import local_results
from ...errors import NbenchError
from ...options import Argument, Option, panel
from ...shards.signals import extra_calls

if TYPE_CHECKING:
    from ..policy import Policy
    from .recorded_scores import Recorded

_tables, _costs, _budget = panel("Without a bench"), panel("Costs"), panel("Budget")
_measure = panel("Measuring costs")


@dataclass(frozen=True)
class ScoreSource:
    """Where to read recorded scores: those of `model` on `bench` under `results`, or two tables.

    Raises:
        NbenchError: neither of the two, or a mixture of both.
    """

    scores: Annotated[
        Path | None,
        Argument("Table: prompt_id, candidate, position, score.", parse=local_results),
    ] = None
    reference_table: Annotated[Path | None, Argument("Table: prompt_id, candidate, score.", parse=local_results)] = None
    bench: Annotated[
        str | None,
        Option("Bench: folder, URL or Hub id. [default: data/noisy-genai-bench]", env="NBENCH_BENCH"),
    ] = None
    model: Annotated[str | None, Option("Scorer, as named in the results of `nbench evaluate`.")] = None
    results: Annotated[
        Path,
        Option("Folder or URL of `nbench evaluate` results.", parse=local_results),
    ] = Path("results")
    reference: Annotated[
        str | None, Option("Reference to measure against. [default: vqascore, else clip, else the first]")
    ] = None
    yardstick: Annotated[
        str | None, Option("Reference used for final-image selection, with --bench. [default: clip]")
    ] = None
    steps: Annotated[int | None, _tables("Denoising steps T of the runs. [default: the last position]")] = None

    def __post_init__(self) -> None:
        tables = self.scores is not None and self.reference_table is not None
        if tables and self.model is self.reference is self.yardstick is None:
            return
        if self.scores is not None or self.model is None or self.steps is not None:
            raise NbenchError("give --model (with --bench), or two tables, SCORES REFERENCE (with --steps)")


@dataclass(frozen=True)
class Costs:
    """Costs of a run besides its denoiser calls, in units of one call of one candidate.

    score: scoring one candidate once; decode: decoding one finished latent; calls_per_score: 1 for scorers that read
    the x0 estimate, L for a look-ahead of L calls, else 0. To count seconds, give score = scorer seconds / step
    seconds.

    Raises:
        NbenchError: a value out of range.
    """

    score: float = 0.0
    decode: float = 0.0
    calls_per_score: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.score < math.inf and 0 <= self.decode < math.inf and self.calls_per_score >= 0):
            raise NbenchError("costs out of range: score and decode and calls_per_score must be 0 or more")

    def steps(self, rows: Any) -> Any:
        """Cost of a step of `rows` candidates, a number or an array of them."""
        return rows

    def scores(self, rows: Any) -> Any:
        """Cost of scoring `rows` candidates once."""
        return self.score * rows

    def decodes(self, rows: Any) -> Any:
        """Cost of decoding the latents of `rows` candidates."""
        return self.decode * rows

    def of(self, policy: Policy, n: int, steps: int) -> float:
        """Cost per prompt under a fixed `policy`: denoiser calls, scores, and decoding of the survivors."""
        policy.check(n, steps)
        cost, done = 0.0, 0
        for alive, stage in zip(policy.alive(n), policy.stages, strict=True):
            due = min(stage.position + min(self.calls_per_score, 1), steps)
            ahead = extra_calls(self.calls_per_score, stage.position, steps)
            cost += self.steps(alive) * (due - done + ahead) + self.scores(alive)
            done = due
        last = policy.stages[-1].keep
        return float(cost + self.steps(last) * (steps - done) + self.decodes(last))

    def best_of(self, n: int, steps: int) -> float:
        """Cost per prompt of plain Best-of-n, which finishes, decodes and scores all n images."""
        return float(self.steps(n) * steps + self.decodes(n) + self.scores(n))

    def one(self, steps: int) -> float:
        """Cost of a single image without selection."""
        return float(self.steps(1) * steps + self.decodes(1))


@dataclass(frozen=True)
class CostOptions:
    """Costs given by the user; None: as recorded with the scores.

    Raises:
        NbenchError: a cost file and costs beside it.
    """

    score_cost: Annotated[
        float | None,
        _costs(
            "Cost of scoring one candidate once, in denoiser calls. [default: as measured by "
            "`nbench evaluate --time-steps`]"
        ),
    ] = None
    decode_cost: Annotated[float, _costs("Cost of decoding one finished latent, in denoiser calls.")] = 0.0
    reads_x0: Annotated[
        bool | None,
        _costs(
            "The scorer reads the x0 estimate: one more call per stage. [default: as recorded with the scores]",
            flag="--reads-x0/--no-reads-x0",
        ),
    ] = None
    cost_file: Annotated[
        Path | None,
        _costs("File of `nbench tune --measure`: what batches of each size take, so that shares are of seconds."),
    ] = None

    def __post_init__(self) -> None:
        if self.cost_file is not None and (self.score_cost is not None or self.decode_cost):
            raise NbenchError("--cost-file has the costs of scores and decodes: leave out --score-cost, --decode-cost")

    def of(self, recorded: Recorded) -> Costs:
        """The costs of a run with the scorer of `recorded`.

        Raises:
            NbenchError: no such cost file.
        """
        calls = recorded.calls_per_score if self.reads_x0 is None else int(self.reads_x0)
        if self.cost_file is not None:
            from .cost_file import read_costs

            return read_costs(self.cost_file).costs(calls)
        return Costs(recorded.score_cost if self.score_cost is None else self.score_cost, self.decode_cost, calls)


@dataclass(frozen=True)
class MeasureOptions:
    """What `nbench tune --measure` measures: the pipeline of the bench, and a scorer."""

    measure: Annotated[
        bool, _measure("Measure first what batches of each size take here, and write it to --cost-file.")
    ] = False
    scorer: Annotated[
        str | None, _measure("Scorer to measure, if --model is not its name (x0-preview:vqascore:FOLDER).")
    ] = None
    at_once: Annotated[int, _measure("Prompts at a time: more of them fill the batches of the survivors.")] = 1


@dataclass(frozen=True)
class BudgetOptions:
    """Maximum cost per prompt, in denoiser calls or in FLOPs; None: no limit."""

    budget: Annotated[
        float | None, _budget("Denoiser calls per prompt; each method draws as many candidates as it can afford.")
    ] = None
    flops: Annotated[float | None, _budget("The budget in FLOPs, with --step-flops.")] = None
    step_flops: Annotated[float | None, _budget("FLOPs of one denoiser call of one candidate.")] = None
    score_flops: Annotated[float, _budget("FLOPs for scoring one candidate once.")] = 0.0

    def in_calls(self, costs: CostOptions) -> tuple[float | None, CostOptions]:
        """The budget in denoiser calls, and the costs with the score's FLOPs converted to calls.

        Raises:
            NbenchError: options that do not go together.
        """
        if self.flops is None:
            if self.step_flops is not None or self.score_flops:
                raise NbenchError("--step-flops and --score-flops need a budget in FLOPs: give --flops")
            return self.budget, costs
        if self.budget is not None or self.step_flops is None or self.step_flops <= 0 or costs.score_cost:
            raise NbenchError("--flops needs --step-flops, and cannot be used with --budget or --score-cost")
        if costs.cost_file is not None:
            raise NbenchError("--flops cannot be used with --cost-file, which counts seconds: give --budget")
        return self.flops / self.step_flops, replace(costs, score_cost=self.score_flops / self.step_flops)


@dataclass(frozen=True)
class TuneConfig:
    """Settings of the search: up to `n` candidates and `max_stages` stages, `budget` as a share of full Best-of-n."""

    n: Annotated[int, Option("Candidates per prompt of the full Best-of-n.")] = 6
    budget: Annotated[float, Option("Budget, as a share of the cost of full Best-of-n.")] = 0.5
    max_stages: Annotated[int, Option("Maximum number of stages.")] = 3
    folds: Annotated[int, Option("Cross-validation folds over prompts.")] = 5
    costs: Costs = field(default_factory=Costs)
    adaptive: Annotated[
        bool,
        Option(
            "Also try policies that look at scores: races, which drop candidates of little chance, and restarts below "
            "a score. The budget then holds on average over prompts."
        ),
    ] = False
