"""Applies a scorer to rows of a bench or of a running pipeline: prepares, embeds, checks what comes back, times it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import NbenchError, failure_of
from ..shards.schema import PositionInfo
from ..shards.scores import PROMPT
from .decoders import Decoder
from .protocols import NameScorer, PairScorer, Scorer, TwinTower, checked_scorer, embed_inputs, score_pairs

Signal = Callable[[slice], torch.Tensor]
"""What is recorded of some of B rows at a position."""
_ROWS = 256
"""Rows that a scorer sees at a time, until memory ends; texts that a tower embeds at a time."""


@dataclass(frozen=True)
class Rows:
    """B trajectories to score. `texts`: by kind of caption, PROMPT among them, one per row (None: it has none)."""

    prompt_ids: Sequence[str]
    candidates: Sequence[int]
    texts: Mapping[str, Sequence[str | None]]

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True)
class RowScores:
    """The scores of B rows at one position.

    Attributes:
        by_caption: float64 on the CPU, of the rows that have a caption of the kind, in their order; not finite where
            the scorer could not tell.
        seconds: per score, texts excluded, as they are embedded once for all positions.
        embeddings: of the inputs of a twin tower, float32 [B, D] on the CPU.
    """

    by_caption: dict[str, torch.Tensor]
    seconds: float
    embeddings: torch.Tensor | None


class AppliedScorer:
    """A scorer at work. It keeps the texts of the last rows: where rows come prompt by prompt, each is embedded once.

    Args:
        decode: makes the pictures that the scorer reads of recorded latents or x0 estimates; None: it reads these.
        batch_size: rows that the scorer sees at a time; None starts with many and halves them when memory runs out.

    Attributes:
        seconds: taken by all calls so far, decoding and texts included.

    Raises:
        NbenchError: it is no scorer.
    """

    def __init__(self, scorer: Scorer, decode: Decoder | None = None, batch_size: int | None = None) -> None:
        self.scorer = checked_scorer(scorer, type(scorer).__name__)
        self.seconds = 0.0
        self._decode, self._automatic, self._size = decode, batch_size is None, batch_size or _ROWS
        self._scale = _scale(scorer)
        self._texts: dict[str, torch.Tensor] = {}

    def prepared(self, recorded: torch.Tensor) -> torch.Tensor:
        """What the scorer reads, float32, of what is recorded; the scores of a reference stay float64."""
        inputs = recorded if recorded.dtype == torch.float64 else recorded.float()
        return inputs if self._decode is None else self._decode(inputs)

    def score(self, rows: Rows, at: PositionInfo, signal: Signal) -> RowScores:
        """The scores of `rows` at a position.

        Raises:
            NbenchError: the scorer fails, gives anything but one real number per row, or runs out of memory.
        """
        start = time.perf_counter()
        if isinstance(self.scorer, TwinTower):
            self._embed_texts(self.scorer, rows)
        embedded = time.perf_counter()
        scores, embeddings = zip(*self._parts(rows, at, signal), strict=True)
        by_caption = {kind: torch.cat([part[kind] for part in scores]).double().cpu() for kind in scores[0]}
        end = time.perf_counter()
        self.seconds += end - start
        count = len(rows) * (1 if isinstance(self.scorer, TwinTower) else len(by_caption))
        return RowScores(
            by_caption, (end - embedded) / count, torch.cat(embeddings) if embeddings[0] is not None else None
        )

    def _parts(self, rows: Rows, at: PositionInfo, signal: Signal) -> Iterator[tuple[dict[str, torch.Tensor], Any]]:
        start = 0
        while start < len(rows):
            part = slice(start, min(start + self._size, len(rows)))
            try:
                scores = self._part(rows, at, signal, part)
            except torch.OutOfMemoryError as error:
                if not self._automatic or part.stop - start == 1:
                    raise self._out_of_memory() from error
                self._size = (part.stop - start) // 2
                continue
            yield scores
            start = part.stop

    def _part(self, rows: Rows, at: PositionInfo, signal: Signal, part: slice) -> tuple[dict[str, torch.Tensor], Any]:
        """Scores by kind of caption, and embeddings."""
        scorer, count = self.scorer, part.stop - part.start
        if isinstance(scorer, NameScorer):
            names = partial(scorer.score_names, rows.prompt_ids[part], rows.candidates[part], at.position)
            return {PROMPT: answer(scorer, "score_names", names, count)}, None
        inputs = self.prepared(signal(part))
        texts = {kind: _present(some[part]) for kind, some in rows.texts.items()}
        if isinstance(scorer, TwinTower):
            seen = answer(scorer, "embed_inputs", partial(embed_inputs, scorer, inputs, at), count, wide=True)
            scaled = seen * self._scale
            return {kind: self._products(scaled[numbers], some) for kind, (numbers, some) in texts.items()}, (
                seen.float().cpu()
            )
        assert isinstance(scorer, PairScorer)
        scores = {kind: torch.empty(0) for kind in texts}
        for kind, (numbers, some) in texts.items():
            if some:
                pairs = partial(score_pairs, scorer, inputs[numbers], some, at)
                scores[kind] = answer(scorer, "score", pairs, len(some))
        return scores, None

    def _products(self, inputs: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        if not texts:
            return inputs.sum(-1)
        embedded = torch.stack([self._texts[text] for text in texts]).to(inputs.device)
        if embedded.shape != inputs.shape:
            raise NbenchError(f"scorer {self.scorer.name}: {widths_misfit(embedded.shape[1], inputs.shape[1])}")
        return (embedded * inputs).sum(-1)

    def _embed_texts(self, tower: TwinTower, rows: Rows) -> None:
        wanted = list(dict.fromkeys(text for texts in rows.texts.values() for text in texts if text is not None))
        new = [text for text in wanted if text not in self._texts]
        try:
            if new:
                self._texts |= dict(zip(new, embed_texts(tower, new), strict=True))
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error
        self._texts = {text: self._texts[text] for text in wanted}

    def _out_of_memory(self) -> NbenchError:
        return NbenchError(
            f"{self.scorer.name} runs out of memory with {self._size} rows at a time: "
            "give a smaller --batch-size, or another --device or --dtype"
        )


def embed_texts(tower: TwinTower, texts: Sequence[str]) -> torch.Tensor:
    """Embeddings [P, D] of one text or more, some at a time.

    Raises:
        NbenchError: the scorer fails, or gives something else.
    """
    parts = (texts[start : start + _ROWS] for start in range(0, len(texts), _ROWS))
    return torch.cat(
        [answer(tower, "embed_text", partial(tower.embed_text, part), len(part), wide=True) for part in parts]
    )


def answer(scorer: Scorer, method: str, call: Callable[[], Any], count: int, wide: bool = False) -> torch.Tensor:
    """What a method of a scorer gives for `count` rows: real numbers [B], or [B, D] where `wide`.

    Raises:
        NbenchError: it fails or gives something else; in one line that names the scorer.
        torch.OutOfMemoryError: for whoever can call it with fewer rows.
    """
    try:
        value = call()
    except (NbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # somebody's own code
        raise NbenchError(f"scorer {scorer.name}: {method} raises {failure_of(error)} (--debug shows where)") from error
    if misfit := answer_misfit(method, value, count, wide):
        raise NbenchError(f"scorer {scorer.name}: {misfit} (see `nbench models check`)")
    assert isinstance(value, torch.Tensor)
    return value.detach()


def answer_misfit(method: str, value: object, count: int, wide: bool) -> str:
    """What is wrong with the type or shape of what a method gives for `count` rows; "" for nothing."""
    shape = "[B, D]" if wide else "[B]"
    if not isinstance(value, torch.Tensor):
        return f"{method} gives a {type(value).__name__}, not a tensor {shape}"
    if value.ndim != 1 + wide or len(value) != count:
        return f"{method} gives shape {list(value.shape)} for {count} rows, not {shape}"
    if value.is_complex() or value.layout != torch.strided:
        return f"{method} gives {value.dtype} {value.layout}, not real numbers".replace("torch.", "")
    return ""


def widths_misfit(text: int, inputs: int) -> str:
    """What is wrong with towers whose embeddings have other widths; "" for nothing."""
    if text == inputs:
        return ""
    return f"embed_text gives {text} numbers and embed_inputs {inputs}: they cannot be multiplied"


def _present(texts: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """The rows that have a text, and their texts."""
    numbered = [(row, text) for row, text in enumerate(texts) if text is not None]
    return [row for row, _ in numbered], [text for _, text in numbered]


def _scale(scorer: Scorer) -> float:
    scale = getattr(scorer, "scale", 1.0)
    try:
        return float(scale)
    except (TypeError, ValueError, RuntimeError):
        raise NbenchError(f"scorer {scorer.name}: its scale is {type(scale).__name__}, not a number") from None
