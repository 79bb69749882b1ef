"""Apply a scorer to rows of a bench or of a running pipeline: prepare inputs, embed, check the output, time it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
"""The recorded signal of a slice of B rows at a position."""
_ROWS = 256
"""Rows per call of a scorer, until memory runs out; texts per call of `embed_text`."""


@dataclass(frozen=True)
class Rows:
    """B trajectories to score. `texts`: by kind of caption (PROMPT is one), one per row or None.

    `of` tells apart trajectories with the same ids: one value per row, such as the number of a request.
    """

    prompt_ids: Sequence[str]
    candidates: Sequence[int]
    texts: Mapping[str, Sequence[str | None]]
    of: Sequence[Hashable] | None = None

    @property
    def keys(self) -> list[Hashable]:
        """What identifies each trajectory."""
        return list(zip(self.of or self.prompt_ids, self.candidates, strict=True))

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True)
class RowScores:
    """The scores of B rows at one position.

    Attributes:
        by_caption: by kind of caption, float64 on the CPU, for the rows that have such a caption, in order; not
            finite where the scorer gives no score.
        seconds: per score; texts are excluded, as they are embedded once for all positions.
        embeddings: a twin tower's input embeddings, float32 [B, D] on the CPU.
    """

    by_caption: dict[str, torch.Tensor]
    seconds: float
    embeddings: torch.Tensor | None


class AppliedScorer:
    """A scorer in use. It caches the texts of the last rows, so if rows go prompt by prompt each text is embedded once.

    Args:
        decode: turns recorded latents or x0 estimates into the images that the scorer reads; None: it reads them as is.
        batch_size: rows per call; None starts high and halves when memory runs out.

    Attributes:
        seconds: time of all calls so far, decoding and texts included.

    Raises:
        NbenchError: not a scorer.
    """

    def __init__(self, scorer: Scorer, decode: Decoder | None = None, batch_size: int | None = None) -> None:
        self.scorer = checked_scorer(scorer, type(scorer).__name__)
        self.seconds = 0.0
        self._decode, self._automatic, self._size = decode, batch_size is None, batch_size or _ROWS
        self._scale = _scale(scorer)
        self._texts: dict[str, torch.Tensor] = {}

    def prepared(self, recorded: torch.Tensor) -> torch.Tensor:
        """The scorer's input, float32, from a recorded signal; scores of a reference stay float64."""
        inputs = recorded if recorded.dtype == torch.float64 else recorded.float()
        return inputs if self._decode is None else self._decode(inputs)

    def score(self, rows: Rows, at: PositionInfo, signal: Signal) -> RowScores:
        """Score `rows` at a position.

        Raises:
            NbenchError: the scorer fails, does not return one real number per row, or runs out of memory.
        """
        start = time.perf_counter()
        if isinstance(self.scorer, TwinTower):
            self._embed_texts(self.scorer, rows)
        texts_done = time.perf_counter()
        scores, embeddings = zip(*self._parts(rows, at, signal), strict=True)
        by_caption = {kind: torch.cat([part[kind] for part in scores]).double().cpu() for kind in scores[0]}
        end = time.perf_counter()
        self.seconds += end - start
        count = len(rows) * (1 if isinstance(self.scorer, TwinTower) else len(by_caption))
        return RowScores(
            by_caption, (end - texts_done) / count, torch.cat(embeddings) if embeddings[0] is not None else None
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
        texts = {kind: _present(column[part]) for kind, column in rows.texts.items()}
        if isinstance(scorer, TwinTower):
            embeddings = answer(scorer, "embed_inputs", partial(embed_inputs, scorer, inputs, at), count, wide=True)
            scaled = embeddings * self._scale
            return {kind: self._products(scaled[numbers], captions) for kind, (numbers, captions) in texts.items()}, (
                embeddings.float().cpu()
            )
        assert isinstance(scorer, PairScorer)
        scores = {kind: torch.empty(0) for kind in texts}
        for kind, (numbers, captions) in texts.items():
            if captions:
                pairs = partial(score_pairs, scorer, inputs[numbers], captions, at)
                scores[kind] = answer(scorer, "score", pairs, len(captions))
        return scores, None

    def _products(self, inputs: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        if not texts:
            return inputs.sum(-1)
        text_embeddings = torch.stack([self._texts[text] for text in texts]).to(inputs.device)
        if text_embeddings.shape != inputs.shape:
            raise NbenchError(f"scorer {self.scorer.name}: {widths_misfit(text_embeddings.shape[1], inputs.shape[1])}")
        return (text_embeddings * inputs).sum(-1)

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
            f"{self.scorer.name} runs out of memory with {self._size} rows per batch: "
            "use a smaller --batch-size, or another --device or --dtype"
        )


def embed_texts(tower: TwinTower, texts: Sequence[str]) -> torch.Tensor:
    """Embeddings [P, D] of one or more texts, in batches.

    Raises:
        NbenchError: the scorer fails, or returns something else.
    """
    parts = (texts[start : start + _ROWS] for start in range(0, len(texts), _ROWS))
    return torch.cat(
        [answer(tower, "embed_text", partial(tower.embed_text, part), len(part), wide=True) for part in parts]
    )


def answer(scorer: Scorer, method: str, call: Callable[[], Any], count: int, wide: bool = False) -> torch.Tensor:
    """Call a scorer's method and check its result for `count` rows: real numbers [B], or [B, D] if `wide`.

    Raises:
        NbenchError: it fails or returns something else; one line that names the scorer.
        torch.OutOfMemoryError: the caller may retry with fewer rows.
    """
    try:
        value = call()
    except (NbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # user code can raise any type
        raise NbenchError(f"scorer {scorer.name}: {method} raises {failure_of(error)} (--debug shows where)") from error
    if misfit := answer_misfit(method, value, count, wide):
        raise NbenchError(f"scorer {scorer.name}: {misfit} (see `nbench models check`)")
    assert isinstance(value, torch.Tensor)
    return value.detach()


def answer_misfit(method: str, value: object, count: int, wide: bool) -> str:
    """What is wrong with the type or shape of a method's result for `count` rows; "" if nothing."""
    shape = "[B, D]" if wide else "[B]"
    if not isinstance(value, torch.Tensor):
        return f"{method} returns a {type(value).__name__}, not a tensor {shape}"
    if value.ndim != 1 + wide or len(value) != count:
        return f"{method} returns shape {list(value.shape)} for {count} rows, not {shape}"
    if value.is_complex() or value.layout != torch.strided:
        return f"{method} returns {value.dtype} {value.layout}, not real numbers".replace("torch.", "")
    return ""


def widths_misfit(text: int, inputs: int) -> str:
    """An error if the two towers' embeddings have different widths; "" if not."""
    if text == inputs:
        return ""
    return f"embed_text returns {text} numbers per row and embed_inputs {inputs}: make them equal"


def _present(texts: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """The numbers of the rows that have a text, and the texts."""
    numbered = [(row, text) for row, text in enumerate(texts) if text is not None]
    return [row for row, _ in numbered], [text for _, text in numbered]


def _scale(scorer: Scorer) -> float:
    scale = getattr(scorer, "scale", 1.0)
    try:
        return float(scale)
    except (TypeError, ValueError, RuntimeError):
        raise NbenchError(f"scorer {scorer.name}: its scale is {type(scale).__name__}, not a number") from None
