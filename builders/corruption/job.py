"""Corrupting prompts as a job: a unit is a number of prompts, and leaves their rows in a file beside the output."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import NbenchError, StorageError
from ...jobs.job import Context, JobError, JobFile, Unit
from ...jobs.records import Record
from ...jobs.run import check_alone, clear
from ...jobs.store import LocalStore
from ...shards.schema import CORRUPTION_KINDS, digest
from ..prompts.rows import Prompt
from ..spec import prompts_digest
from .answers import AnswerFile, answer_files, own_answers
from .change import Change, Engine
from .config import CorruptConfig
from .endpoint import Endpoint
from .llm import ChatModel, LlmEngine
from .local import LocalModel
from .rules import RulesEngine
from .wordnet import CoHyponyms
from .world import WorldEngine

_PROMPTS = 1024
"""Prompts of a unit."""


@dataclass(frozen=True)
class OpenCorruption:
    """What a worker needs to corrupt prompts; picklable. alone: no other process is at it."""

    config: CorruptConfig
    alone: bool

    def __call__(self, context: Context) -> Corrupter:
        """Load the engine."""
        return Corrupter(self.config, context, self.alone)


class Corrupter:
    """Writes the rows of prompts with a loaded engine."""

    def __init__(self, config: CorruptConfig, context: Context, alone: bool) -> None:
        self._kinds = [kind for kind in CORRUPTION_KINDS if kind in config.kinds]
        self._context, self._open = context, ExitStack()
        self._engine = _engine(config, alone, self._open)

    def begin(self, payload: Any) -> None:
        """Nothing."""

    def make(self, index: int, payload: Sequence[Prompt], folder: Path) -> Unit:
        """Write the rows of `payload`.

        Raises:
            JobError: the engine's endpoint does not answer.
        """
        counts = {kind: Counter[str]() for kind in self._kinds}
        errors, path = Counter[str](), folder / "rows.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for prompt, changes in zip(payload, self._changes(payload), strict=True):
                for change in changes:
                    counts[change.kind][change.status] += 1
                    if change.error:
                        errors[change.error] += 1
                file.write(row_line(_row(prompt, changes, self._engine.name)))
                self._context.advance(1)
        files = {CorruptJob.name(index): (path, hashlib.sha256(path.read_bytes()).hexdigest())}
        return Unit(files, {"counts": {kind: dict(of) for kind, of in counts.items()}, "errors": dict(errors)})

    def close(self) -> None:
        """Close the file of answers."""
        self._open.close()

    def _changes(self, prompts: Sequence[Prompt]) -> Iterator[list[Change]]:
        try:
            yield from self._engine.changes([prompt.text for prompt in prompts], self._kinds)
        except StorageError:
            raise
        except NbenchError as error:
            raise JobError(str(error)) from None


class CorruptJob:
    """The near misses of `prompts`, as their driver sees them; parts with the same key are kept."""

    title = "corrupt"

    def __init__(self, config: CorruptConfig, prompts: Sequence[Prompt], alone: bool) -> None:
        out = config.out.absolute()
        self.store, self.open = LocalStore(out.with_name(f".{out.name}.parts")), OpenCorruption(config, alone)
        self._prompts = prompts
        deciding = ("chosen", "model", "revision", "retry_failed", "spacy_model", "wordnet")
        of = {name: getattr(config, name) for name in deciding} | {"seed": config.prompts.seed}
        self.key = digest(of | {"kinds": sorted(config.kinds), "prompts": prompts_digest(prompts)})

    def discard_others(self, lease: float) -> None:
        """Remove the parts of other captions, which an interrupted run has left.

        Raises:
            NbenchError: somebody is at work on them.
        """
        present = JobFile.read(self.store)
        if present is not None and present.key != self.key:
            check_alone(self.store, lease)
            self.remove()

    def begun(self) -> bool:
        """Always."""
        return True

    def units(self) -> Collection[int]:
        """The parts."""
        return range(-(-len(self._prompts) // _PROMPTS))

    def made_before(self) -> Collection[int]:
        """None."""
        return ()

    def damaged(self, records: Mapping[int, Record]) -> dict[int, str]:
        """The parts that are not there."""
        files = self.store.list("")
        return {index: self.name(index) for index in records if self.name(index) not in files}

    def rows(self, index: int) -> int:
        """Its prompts."""
        return len(self.payload(index))

    def payload(self, index: int) -> Sequence[Prompt]:
        """Its prompts."""
        return list(self._prompts[index * _PROMPTS : (index + 1) * _PROMPTS])

    @staticmethod
    def name(index: int) -> str:
        """The name of a part."""
        return f"{index:05d}.jsonl"

    def all_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all parts, in order."""
        for _, content in self.store.read_all(map(self.name, self.units())):
            yield from map(json.loads, (content or b"").splitlines())

    def remove(self) -> None:
        """Remove the parts, with the records of the job that made them."""
        clear(self.store)
        self.store.remove_folder("")


def row_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _engine(config: CorruptConfig, alone: bool, stack: ExitStack) -> Engine:
    seed = config.prompts.seed
    if config.chosen == "world":
        return WorldEngine(seed)
    if config.chosen == "rules":
        return RulesEngine(seed, config.spacy_model, CoHyponyms(config.wordnet) if config.wordnet else None)
    assert config.model is not None
    model: ChatModel
    if config.endpoint is None:
        model = LocalModel(config.model, config.revision)
    else:
        model = Endpoint(config.endpoint, config.model, config.key_name, config.timeout_s)
    own = own_answers(config.out, alone)
    answers = stack.enter_context(AnswerFile(own, [path for path in answer_files(config.out) if path != own]))
    return LlmEngine(model, answers, seed, config.concurrency, config.retry_failed)


def _row(prompt: Prompt, changes: list[Change], engine: str) -> dict[str, Any]:
    near = dict.fromkeys(CORRUPTION_KINDS) | {change.kind: change.caption for change in changes}
    details = [
        {"kind": each["kind"], "engine": engine} | {name: each[name] for name in ("status", "before", "after", "error")}
        for each in map(asdict, changes)
    ]
    return {"id": prompt.id, "prompt": prompt.text, "tags": prompt.tags, "corruptions": near, "changes": details}
