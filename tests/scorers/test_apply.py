"""What comes back from a scorer, of a bench or of a run, is one real number per row, or is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.apply import AppliedScorer, Rows
from nbench.shards.schema import PositionInfo
from nbench.shards.scores import PROMPT

AT = PositionInfo(5, 500.0, 1.0, 1.0)
LATENTS = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0))
TEXTS = ["red", "red", "red", "blue", "blue", "blue"]
ROWS = Rows(TEXTS, [0, 1, 2] * 2, {PROMPT: TEXTS, "colour": ["green", None, None, "green", "pink", None]})


class Pair:
    """The mean of what is read, plus the length of the prompt; subclasses spoil it."""

    name, reads, fingerprint = "mine", "latent", "1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> Any:
        return self.spoil(inputs.mean((1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts]))

    def spoil(self, scores: torch.Tensor) -> Any:
        return scores


class Tower:
    """Embeds by the mean and by the length."""

    name, reads, fingerprint, scale = "towers", "latent", "1", 3.0

    def embed_text(self, prompts: Sequence[str]) -> Any:
        return torch.tensor([[float(len(prompt)), 1.0] for prompt in prompts])

    def embed_inputs(self, inputs: torch.Tensor) -> Any:
        return torch.stack([inputs.mean((1, 2, 3)), torch.ones(len(inputs))], 1)


class Names:
    name, reads, fingerprint = "names", "nothing", "1"

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> Any:
        return torch.tensor(candidates) + position


def scored(scorer: Any, batch_size: int | None = None) -> dict[str, torch.Tensor]:
    return AppliedScorer(scorer, batch_size=batch_size).score(ROWS, AT, lambda rows: LATENTS[rows]).by_caption


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_each_kind_of_scorer_scores_every_caption_of_every_row(batch_size: int | None) -> None:
    mean = LATENTS.mean((1, 2, 3)).double()
    lengths = torch.tensor([3, 3, 3, 4, 4, 4]).double()
    scores = scored(Pair(), batch_size)
    torch.testing.assert_close(scores[PROMPT], mean + lengths)
    torch.testing.assert_close(scores["colour"], mean[[0, 3, 4]] + torch.tensor([5, 5, 4]).double())
    scores = scored(Tower(), batch_size)
    torch.testing.assert_close(scores[PROMPT], 3 * (mean * lengths + 1))
    torch.testing.assert_close(scores["colour"], 3 * (mean[[0, 3, 4]] * torch.tensor([5, 5, 4]).double() + 1))
    assert {kind: scores.tolist() for kind, scores in scored(Names(), batch_size).items()} == {
        PROMPT: [5, 6, 7, 5, 6, 7]  # whole numbers are real, too
    }


def test_seconds_add_up_and_embeddings_are_handed_out() -> None:
    run = AppliedScorer(Tower(), batch_size=4)
    outcomes = [run.score(ROWS, AT, lambda rows: LATENTS[rows]) for _ in range(2)]
    assert run.seconds > sum(6 * outcome.seconds for outcome in outcomes) > 0
    assert outcomes[0].embeddings is not None
    torch.testing.assert_close(outcomes[0].embeddings, Tower().embed_inputs(LATENTS))


def test_texts_of_the_last_rows_are_embedded_once() -> None:
    class Counts(Tower):
        texts: list[str] = []  # noqa: RUF012

        def embed_text(self, prompts: Sequence[str]) -> Any:
            self.texts.extend(prompts)
            return super().embed_text(prompts)

    run = AppliedScorer(Counts())
    for texts in (TEXTS, TEXTS[:3], ["pink"], TEXTS[:1]):
        run.score(Rows(texts, range(len(texts)), {PROMPT: texts}), AT, lambda rows: LATENTS[rows])
    assert Counts.texts == ["red", "blue", "pink", "red"]


def raises(self: Pair, scores: torch.Tensor) -> Any:
    raise ValueError("a bad \x1b[1mday\nand more")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda self, s: None, r"score returns a NoneType, not a tensor \[B\]"),
        (lambda self, s: s.tolist(), r"score returns a list, not a tensor \[B\]"),
        (lambda self, s: s.numpy(), r"score returns a ndarray, not a tensor \[B\]"),
        (lambda self, s: s[:1], r"score returns shape \[1\] for 6 rows, not \[B\]"),
        (lambda self, s: s[:, None], r"score returns shape \[6, 1\] for 6 rows, not \[B\]"),
        (lambda self, s: s.mean(), r"score returns shape \[\] for 6 rows, not \[B\]"),
        (lambda self, s: s * 1j, "score returns complex64 strided, not real numbers"),
        (lambda self, s: s.to_sparse(), "score returns float32 sparse_coo, not real numbers"),
        (raises, r"score raises ValueError: a bad \\x1b\[1mday and more \("),
    ],
)
def test_what_is_no_score_per_row_is_refused_by_name(spoil: object, reason: str) -> None:
    scorer = type("Spoilt", (Pair,), {"spoil": spoil})()
    with pytest.raises(NbenchError, match=f"^scorer mine: {reason}") as refusal:
        scored(scorer)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("method", ["embed_text", "embed_inputs"])
def test_what_is_no_embedding_per_row_is_refused_by_name(method: str) -> None:
    def spoilt(spoil: Any) -> Any:
        return type("Spoilt", (Tower,), {method: lambda self, rows: spoil(getattr(Tower, method)(self, rows))})()

    for spoil, reason in (
        (lambda rows: rows[:, 0], rf"{method} returns shape \[\d\] for \d rows, not \[B, D\]"),
        (lambda rows: rows[:-1], rf"{method} returns shape \[\d, 2\] for \d rows"),
        (lambda rows: rows * 1j, f"{method} returns complex64"),
        (lambda rows: rows[:, :1], r"embed_text returns \d numbers per row and embed_inputs \d: make them equal"),
        (lambda rows: 1 / 0, f"{method} raises ZeroDivisionError: division by zero"),
    ):
        with pytest.raises(NbenchError, match=f"^scorer towers: {reason}"):
            scored(spoilt(spoil))


def test_numbers_that_are_none_stay_so_and_gradients_are_left_behind() -> None:
    scorer = type("Spoilt", (Pair,), {"spoil": lambda self, s: (s / 0).requires_grad_()})()
    scores = scored(scorer)[PROMPT]
    assert not scores.requires_grad
    assert not torch.isfinite(scores).any()


def test_a_scale_must_be_a_number() -> None:
    with pytest.raises(NbenchError, match="scorer towers: its scale is NoneType, not a number"):
        scored(type("Scaled", (Tower,), {"scale": None})())


def test_a_failing_scorer_keeps_where_it_failed() -> None:
    with pytest.raises(NbenchError) as refusal:
        scored(type("Spoilt", (Pair,), {"spoil": raises})())
    assert isinstance(refusal.value.__cause__, ValueError)


def test_memory_that_ends_over_texts_or_inputs_halves_or_refuses() -> None:
    class Greedy(Tower):
        most, sizes = 2, list[int]()

        def embed_inputs(self, inputs: torch.Tensor) -> Any:
            self.sizes.append(len(inputs))
            if len(inputs) > self.most:
                raise torch.OutOfMemoryError("no more")
            return super().embed_inputs(inputs)

        def embed_text(self, prompts: Sequence[str]) -> Any:
            if self.most == 0:
                raise torch.OutOfMemoryError("no more")
            return super().embed_text(prompts)

    torch.testing.assert_close(scored(Greedy())[PROMPT], scored(Tower())[PROMPT])
    assert Greedy.sizes == [6, 3, *(1,) * 6]
    with pytest.raises(NbenchError, match="towers runs out of memory with 4 rows per batch"):
        scored(Greedy(), batch_size=4)
    Greedy.most = 0
    with pytest.raises(NbenchError, match="towers runs out of memory"):
        scored(Greedy())


def test_what_is_no_scorer_is_refused() -> None:
    with pytest.raises(NbenchError, match="Mute is not a scorer: give it embed_text"):
        AppliedScorer(type("Mute", (), {"name": "mute", "reads": "latent", "fingerprint": "1"})())
    with pytest.raises(NbenchError, match="Blind reads nothing: give it score_names"):
        AppliedScorer(type("Blind", (Pair,), {"reads": "nothing"})())
