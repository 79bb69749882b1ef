"""The configuration of `nbench corrupt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ...errors import NbenchError
from ...options import Fields, Option, panel, words
from ...shapes.grammar import CORRUPTION_KINDS
from ..prompts.request import WORLD, PromptRequest

EngineName = Literal["world", "rules", "llm"]
_rules, _llm = panel("Engine: rules"), panel("Engine: llm")


@dataclass(frozen=True)
class CorruptConfig:
    """Options of `nbench corrupt`. `engine` None: "world" for the world's own prompts, "rules" for others.

    `model` is the endpoint's or, without `endpoint`, a folder or Hub id that transformers loads. `spacy_model` and
    `wordnet` (a lexicon of the package wn) are for "rules".

    Raises:
        NbenchError: conflicting options, an unknown kind, or another format of the output file.
    """

    prompts: Annotated[PromptRequest, Fields(without=("tags",))]
    out: Annotated[Path, Option("Output file, .jsonl or .parquet.")]
    engine: Annotated[
        EngineName | None, Option("What writes the corruptions. [default: world for shapes, rules for others]")
    ] = None
    kinds: Annotated[
        tuple[str, ...],
        Option("Kinds of corruption, separated by commas.", text=str, default=",".join(CORRUPTION_KINDS), parse=words),
    ] = CORRUPTION_KINDS
    endpoint: Annotated[str | None, _llm("OpenAI-compatible address, such as http://localhost:8000/v1.")] = None
    model: Annotated[
        str | None, _llm("Model at the endpoint; without an endpoint, a folder or Hub id for transformers.")
    ] = None
    revision: Annotated[str | None, _llm("Branch, tag or commit of a model on the Hub.")] = None
    key_name: Annotated[str, _llm("Environment variable that holds the API key.", flag="--api-key-env")] = (
        "OPENAI_API_KEY"
    )
    concurrency: Annotated[int, _llm("Requests in parallel.")] = 8
    timeout_s: Annotated[float, _llm("Seconds to wait for an answer.", flag="--timeout")] = 120.0
    retry_failed: Annotated[bool, _llm("Retry the requests that failed.")] = False
    spacy_model: Annotated[str, _rules("Parser: a model of spaCy.")] = "en_core_web_sm"
    wordnet: Annotated[str | None, _rules("Lexicon of the package wn for rarer subjects, such as oewn:2024.")] = None

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in CORRUPTION_KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            kinds, allowed = ",".join(self.kinds), ",".join(CORRUPTION_KINDS)
            raise NbenchError(f"--kinds {kinds!r}: give some of {allowed}, each once")
        if self.out.suffix not in (".jsonl", ".parquet"):
            raise NbenchError(f"--out {self.out} is neither .jsonl nor .parquet: give it one of these suffixes")
        source = Path(self.prompts.source)
        if source.exists() and self.out.exists() and source.samefile(self.out):
            raise NbenchError(f"--out {self.out} is also the input file: give another")
        if self.concurrency < 1 or self.timeout_s <= 0:
            raise NbenchError("--concurrency and --timeout need to be more than 0")
        if (self.chosen == "llm") != (self.model is not None):
            raise NbenchError("--engine llm needs --model, and no other engine takes one")
        if self.endpoint is not None and (self.chosen != "llm" or self.revision is not None):
            raise NbenchError("--endpoint needs --engine llm, and excludes --revision")

    @property
    def chosen(self) -> EngineName:
        """The engine."""
        return self.engine or ("world" if self.prompts.source == WORLD else "rules")
