"""A stack: one scorer of the scores that several scorers have given a candidate at several positions of its run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from .apply import AppliedScorer, Rows, RowScores, Signal
from .protocols import Reads, Scorer, input_kind
from .weights import folder_fingerprint, model_folder

_OF = {"preview": "latent", "x0_preview": "x0", "x0_image": "x0"}
"""The signal that an image is decoded from."""


class StackConfig(BaseModel):
    """A stack's config.json.

    weights: by position, one row for each stack position up to it, with one weight for each model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["nbench-stack"] = "nbench-stack"
    models: tuple[str, ...]
    positions: tuple[int, ...]
    steps: int
    reference: str
    weights: dict[int, tuple[tuple[float, ...], ...]]

    @model_validator(mode="after")
    def _fits(self) -> StackConfig:
        if not self.models or not self.positions or list(self.positions) != sorted(set(self.positions)):
            raise ValueError("no models, or positions that do not ascend")
        for count, position in enumerate(self.positions, 1):
            rows = self.weights.get(position, ())
            if len(rows) != count or any(len(row) != len(self.models) for row in rows):
                raise ValueError(f"the weights at position {position} do not fit")
        return self


class StackScorer:
    """A weighted sum of scores of one candidate: those of `parts` at each of `positions` that the run has reached.

    Weights are learned from differences between the candidates of a prompt (`nbench train stack`), and what is common
    to all candidates of a prompt does not change their order: so no candidate needs the scores of another. Between two
    positions the sum stays as it was at the earlier one; before the first there is none.

    It scores runs, not single inputs, so it is applied by `AppliedStack`, which keeps the scores so far.

    Args:
        source: the folder.
        open_model: opens a model by its name.

    Raises:
        NbenchError: the folder holds no stack, a model of it cannot be opened, or its models read different signals.
    """

    def __init__(self, source: str | Path, name: str, open_model: Callable[[str], Scorer]) -> None:
        folder = model_folder(source)
        try:
            self.config = StackConfig.model_validate_json((folder / "config.json").read_bytes())
        except (OSError, ValidationError):
            raise NbenchError(f"{source} is not a stack: train one with `nbench train stack`") from None
        self.parts = [open_model(model) for model in self.config.models]
        self.name, self.reads = name, common_signal(self.parts)
        self.observes = self.config.positions
        self.positions, self.run_steps = self.config.positions, self.config.steps
        self.scores_noise = self.positions[0] == 0
        parts = "-".join(part.fingerprint for part in self.parts)
        self.fingerprint = f"{folder_fingerprint(folder, 'stack')}-{parts}"

    def load(self) -> None:
        """Load the weights of all models."""
        for part in self.parts:
            load = getattr(part, "load", None)
            if callable(load):
                load()

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Refused: a score takes what earlier positions gave.

        Raises:
            NbenchError: always.
        """
        raise NbenchError(f"{self.name} scores runs from their first positions on, not single inputs")


def common_signal(scorers: Sequence[Scorer]) -> Reads:
    """The one signal that all scorers read or decode: "latent" or "x0".

    Raises:
        NbenchError: they read different ones, or another.
    """
    signals = {scorer.name: _OF.get(scorer.reads, scorer.reads) for scorer in scorers}
    kinds = set(signals.values())
    if len(kinds) > 1 or input_kind(next(iter(kinds))) not in ("latent", "x0") or "@" in next(iter(kinds)):
        listed = ", ".join(f"{name} reads {signal}" for name, signal in signals.items())
        raise NbenchError(
            f"a stack reads one signal, latents or x0 estimates of one call, and {listed}: name models of one kind"
        )
    return kinds.pop()


class AppliedStack(AppliedScorer):
    """A stack in use. It keeps what each trajectory was given at the stack's positions, until a run begins anew.

    Args:
        parts: its scorers, each applied to the stack's signal.

    Attributes:
        held: keys of trajectories that are kept when a run begins.
    """

    def __init__(self, scorer: StackScorer, parts: Sequence[AppliedScorer]) -> None:
        super().__init__(scorer)
        self._stack, self._applied = scorer, parts
        self._seen: dict[tuple[str, Hashable], dict[int, torch.Tensor]] = {}
        self.held: frozenset[Hashable] = frozenset()

    def score(self, rows: Rows, at: PositionInfo, signal: Signal) -> RowScores:
        """Score `rows` at a position; at the stack's own positions its scorers run first.

        Raises:
            NbenchError: as `AppliedScorer.score`, or an earlier position of the stack was left out.
        """
        before, place = sum(part.seconds for part in self._applied), at.position
        if place in self._stack.positions:
            self._observe(rows, at, signal)
        reached = [position for position in self._stack.positions if position <= place]
        if not reached:
            raise NbenchError(f"{self._stack.name} scores from position {self._stack.positions[0]} on, not at {place}")
        weights = torch.tensor(self._stack.config.weights[reached[-1]], dtype=torch.float64)
        by_caption = {}
        for kind, keys in _keys(rows).items():
            seen = [self._seen.get((kind, key), {}) for key in keys]
            if any(position not in values for values in seen for position in reached):
                raise NbenchError(
                    f"{self._stack.name} at position {place} needs scores at {', '.join(map(str, reached))}"
                )
            values = [torch.stack([scores[position] for position in reached]) for scores in seen]
            by_caption[kind] = (torch.stack(values) * weights).sum((1, 2)) if values else torch.zeros(0).double()
        spent = sum(part.seconds for part in self._applied) - before
        self.seconds += spent
        return RowScores(by_caption, spent / max(1, len(rows)), None)

    def copy(self, sources: Mapping[Hashable, Hashable]) -> None:
        """Trajectories go on as copies of others, by key: with the scores that those were given."""
        own = {(kind, key): dict(self._seen[kind, sources[key]]) for kind, key in self._seen if key in sources}
        self._seen.update(own)

    def _observe(self, rows: Rows, at: PositionInfo, signal: Signal) -> None:
        if at.position == self._stack.positions[0]:
            self._seen = {key: values for key, values in self._seen.items() if key[1] in self.held}
        scored = [part.score(rows, at, signal).by_caption for part in self._applied]
        for kind, keys in _keys(rows).items():
            values = torch.stack([scores[kind] for scores in scored], 1)
            for key, row in zip(keys, values, strict=True):
                self._seen.setdefault((kind, key), {})[at.position] = row


def _keys(rows: Rows) -> dict[str, list[Hashable]]:
    """By kind of caption, what tells the trajectories apart that have such a caption."""
    return {
        kind: [key for key, text in zip(rows.keys, texts, strict=True) if text is not None]
        for kind, texts in rows.texts.items()
    }
