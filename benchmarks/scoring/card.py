"""What the driver of an evaluation knows of a scorer. Only whoever scores needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import NbenchError
from ...options import Place
from ...scorers.protocols import Scorer, TwinTower, input_kind, observed_first
from ...scorers.references import Reference, load_reference
from ...scorers.registry import get_scorer
from ...shards.reader import Bench, open_bench
from ...shards.schema import DatasetInfo
from .options import ScoreOptions

_AS_USUAL = ScoreOptions()


@dataclass(frozen=True)
class Card:
    """A scorer without its scores.

    Attributes:
        observes: positions at which it must read before it scores: those of a stack.
        embeds: whether it is a dual encoder.
        decoder: fingerprint of decoders of its inputs that are not the bench's own, else "".
        device: of the machine that was asked, on which it would score.
    """

    name: str
    reads: str
    fingerprint: str
    observes: tuple[int, ...]
    embeds: bool
    decoder: str
    device: str

    @classmethod
    def of(cls, scorer: Scorer, info: DatasetInfo, options: ScoreOptions = _AS_USUAL) -> Card:
        """The card of a scorer of the trajectories of a bench; its weights stay where they are."""
        decoder = ""
        if input_kind(scorer.reads) in ("preview", "x0_preview", "x0_image"):
            from ...scorers.decoders import decoder_fingerprint

            decoder = decoder_fingerprint(info.latent_space, options.preview, options.vae)
        embeds, observes = isinstance(scorer, TwinTower), tuple(observed_first(scorer))
        device = options.placement.device
        return cls(scorer.name, scorer.reads, scorer.fingerprint, observes, embeds, decoder, device)


def cards(models: Sequence[str | Reference], bench: Place, options: ScoreOptions) -> list[Card | NbenchError]:
    """The card of each model on a bench, or why there is none. For a process that may import torch."""
    info, found = open_bench(bench).info, list[Card | NbenchError]()
    options = options.here()
    for model in models:
        try:
            found.append(Card.of(load_scorer(model, info, options, load=False), info, options))
        except NbenchError as error:
            found.append(error)
    return found


def load_scorer(model: str | Reference, info: DatasetInfo, options: ScoreOptions, load: bool = True) -> Scorer:
    """The scorer of a model or a reference; `load` as for `get_scorer`.

    Raises:
        NbenchError: no such scorer, or none of its weights fit.
    """
    opened = load_reference if isinstance(model, Reference) else get_scorer
    return opened(model, info, options.placement, load)  # type: ignore[arg-type]  # each takes what it is chosen by


def prompt_embeddings(model: str, bench: Place, options: ScoreOptions, prompts: Sequence[str]) -> np.ndarray:
    """What the text tower of a model makes of prompts, float32 [P, D]. For a process that may import torch."""
    return embedded(load_scorer(model, open_bench(bench).info, options.here()), prompts)


def embedded(scorer: Scorer, prompts: Sequence[str]) -> np.ndarray:
    """What the text tower of a scorer makes of prompts, float32 [P, D]."""
    from ...scorers.apply import embed_texts

    assert isinstance(scorer, TwinTower)
    values: np.ndarray = embed_texts(scorer, prompts).float().cpu().numpy()
    return values


def score_metadata(info: DatasetInfo, scorer: Scorer | Card, options: ScoreOptions = _AS_USUAL) -> dict[str, Any]:
    """The provenance of a score table."""
    card = scorer if isinstance(scorer, Card) else Card.of(scorer, info, options)
    return {
        "scorer": card.name,
        "scorer_fingerprint": card.fingerprint,
        "bench_fingerprint": info.fingerprint,
        **({"decoder": card.decoder} if card.decoder else {}),
    }


def nothing_to_score(bench: Bench, scorer: Scorer | Card, positions: Sequence[int]) -> NbenchError:
    """The error if a bench has nothing at `positions` that the scorer reads."""
    return NbenchError(
        f"{bench.location.url} has nothing that {scorer.name} could score at positions {list(positions)}"
    )
