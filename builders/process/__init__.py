"""The processes that make trajectories: denoising from prompts, or adding noise to images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import NbenchError
from ...pipelines.find import resolve_pipeline
from ...shards.dataset import DatasetFolder
from ..candidates import Candidates, Plan, Resolve
from ..config import BuildConfig
from ..planning.counts import Count
from ..planning.timing import Timing
from ..prompts.choose import PromptSet
from ..prompts.rows import Prompt
from .forward import Forward
from .reverse import Reverse
from .served import Served, is_served

if TYPE_CHECKING:
    from ...pipelines.generate import Trajectories


class LoadedProcess(Protocol):
    """A process whose models are in memory."""

    def make(
        self,
        candidates: Candidates,
        positions: Collection[int],
        signals: Collection[str],
        on_step: Callable[[float], None] = lambda share: None,
    ) -> Trajectories:
        """The latents of `candidates` at `positions`, their images, and `signals`, in one batch.

        on_step: called after each denoising step with its share of the run.
        """

    def note(self, prompts: Sequence[Prompt]) -> str:
        """A warning about these prompts before the long work; "" if there is none."""


class Process(Protocol):
    """The process of one build: nothing is read, fetched or loaded before a method needs it.

    Its methods raise `NbenchError` for prompts, images or a pipeline that the user must fix.
    """

    def __init__(self, config: BuildConfig) -> None: ...

    def choose(self) -> PromptSet:
        """The prompts, or the captions of the images."""

    def plan(self, chosen: PromptSet, resolve: Resolve = resolve_pipeline) -> Plan:
        """The rows of a build of `chosen`, and its spec; `resolve` finds the pipeline."""

    def load(self, plan: Plan) -> LoadedProcess:
        """The models that make the rows of `plan`."""

    def finish(self, plan: Plan, folder: DatasetFolder) -> None:
        """Write the tables that come with the rows, once all of these are there."""

    def count(self, image_size: tuple[int, int]) -> Count:
        """The number of rows; published data sets are counted without fetching them."""

    def row_work(self, rows_a_step: int) -> tuple[int, int]:
        """Work per trajectory: denoiser rows per step, of a pipeline that runs `rows_a_step`; images encoded."""

    def time(self) -> Timing:
        """Time batches of the build's size, halved until they fit into memory."""

    @staticmethod
    def reload(spec: Mapping[str, Any], pipeline: str | None, loras: Sequence[str] = ()) -> LoadedProcess:
        """The models that made the data set with this spec; `pipeline` and `loras` are where they are now."""


PROCESSES: Mapping[str, type[Process]] = {"reverse": Reverse, "forward": Forward, "served": Served}


def process_of(config: BuildConfig) -> Process:
    """The process that `config` asks for.

    Raises:
        NbenchError: a server is to add noise to images.
    """
    if not is_served(config.pipeline):
        return PROCESSES[config.process](config)
    if config.process != "reverse":
        raise NbenchError(f"--process {config.process} needs a pipeline that runs here: {config.pipeline} is a server")
    return Served(config)
