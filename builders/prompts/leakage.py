"""Leakage from a bench into a training set: captions that equal a prompt exactly, normalised, or nearly."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ...errors import NbenchError
from ...shards.dataset import INFO_FILE
from ...shards.reader import open_bench
from .choose import WORLD, prompt_table, world_prompts
from .rows import Prompt, table_prompts

KINDS = ("exact", "normalised", "near")
"""From the closest match to the loosest; a caption counts as the closest that holds."""
PROMPT = "prompt"
"""The caption of a bench that is the prompt itself."""

_T = TypeVar("_T")
_SHINGLE = 5
_PERMUTATIONS = 128
_MISSED = 1e-3
"""Largest probability that the index misses a pair at the threshold; closer pairs are missed less often."""
_BATCH = 1024


@dataclass(frozen=True)
class Leak:
    """A caption of the bench (a prompt or a corruption of it) that is in the training set.

    `kind` and `similarity` (Jaccard, of 5-character shingles of the normalised texts) are those of the closest training
    caption, the first of them `train_id`: `train_text`; `count` training captions match in some way.
    """

    prompt_id: str
    caption: str
    text: str
    kind: str
    similarity: float
    count: int
    train_id: str
    train_text: str


@dataclass(frozen=True)
class LeakReport:
    """What was compared, and the leaks, closest first."""

    n_train: int
    n_prompts: int
    n_corruptions: int
    threshold: float
    leaks: tuple[Leak, ...]

    def counts(self) -> dict[str, int]:
        """How many prompts leak, by the kind of the closest match; `corruption`: corruptions that do."""
        prompts = [leak.kind for leak in self.leaks if leak.caption == PROMPT]
        return {kind: prompts.count(kind) for kind in KINDS} | {"corruption": len(self.leaks) - len(prompts)}


def check_leak(
    train: Iterable[Prompt],
    bench: Iterable[Prompt],
    threshold: float = 0.8,
    progress: Callable[[int], None] | None = None,
) -> LeakReport:
    """Compare every training caption with every prompt of the bench, and look for those that equal a corruption.

    Memory grows with the bench, never with the training set. Near duplicates have a Jaccard similarity of at least
    `threshold`: MinHash with LSH (Broder 1997; Indyk and Motwani 1998) finds the pairs, and each is then computed
    exactly: there are no false positives, and a pair at the threshold is missed once in a thousand at most.

    Args:
        progress: called with the number of captions just compared.

    Raises:
        NbenchError: a threshold out of range, nothing to compare, or the package for MinHash is not installed.
    """
    if not 0 < threshold <= 1:
        raise NbenchError(f"--threshold {threshold:g} is out of range: give a Jaccard similarity above 0, at most 1")
    index, n_train = _Index(bench, threshold), 0
    for batch in _batches(train):
        n_train += len(batch)
        index.compare(batch)
        if progress is not None:
            progress(len(batch))
    if not n_train:
        raise NbenchError("the training set has no captions: nothing to compare")
    ranked = sorted(index.leaks.items(), key=lambda item: (KINDS.index(item[1].kind), -item[1].similarity, item[0]))
    leaks = tuple(leak for _, leak in ranked)
    return LeakReport(n_train, len(index.prompts), len(index.captions) - len(index.prompts), threshold, leaks)


def captions_of(source: str) -> Iterator[Prompt]:
    """The prompts of a data set (folder or URL), or of any source of prompts that `nbench build --prompts` takes.

    Raises:
        NbenchError: the source does not exist or cannot be read.
    """
    if "://" in source or (Path(source) / INFO_FILE).exists():
        return _dataset_prompts(source)
    if source == WORLD:
        return iter(world_prompts("ncc"))
    return table_prompts(prompt_table(source))


def normalise(text: str) -> str:
    """NFKC, case folded, runs of punctuation, symbols and white space as one space; if nothing is left, without that.

    >>> normalise('  A "Red" CUBE, on\\ta ﬁeld!')
    'a red cube on a field'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.translate(_WORDS).split()) or plain.strip()


def shingles(text: str) -> list[str]:
    """All runs of 5 characters of a normalised text, or a shorter text as a whole; repeats stay.

    >>> shingles("a red")
    ['a red']
    """
    return [text[start : start + _SHINGLE] for start in range(max(1, len(text) - _SHINGLE + 1))]


def jaccard(a: set[str] | frozenset[str], b: set[str] | frozenset[str]) -> float:
    """Size of the intersection as a share of that of the union; 1 for two empty sets.

    >>> jaccard({"x", "y"}, {"y", "z", "x"}).__round__(3)
    0.667
    """
    return len(a & b) / len(a | b) if a or b else 1.0


def bands(threshold: float) -> int:
    """Bands of the LSH index: as few as find pairs at `threshold` with 99.9 %; rows per band are a power of two.

    >>> bands(0.8)
    32
    """
    rows = _PERMUTATIONS
    while rows > 1 and (1 - threshold**rows) ** (_PERMUTATIONS // rows) > _MISSED:
        rows //= 2
    return _PERMUTATIONS // rows


class _Words(dict[int, str]):
    """A table for `str.translate`: letters, marks and numbers stay, all else becomes a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if unicodedata.category(char)[0] in "LMN" else " "
        return self[code]


_WORDS = _Words()


class _Index:
    """An index of the bench's captions; `leaks` are by the number of the bench's caption."""

    def __init__(self, bench: Iterable[Prompt], threshold: float) -> None:
        rensa = _rensa()
        self._signatures: Callable[[list[list[str]]], list[Any]] = lambda sets: rensa.RMinHash.from_token_sets(
            sets, num_perm=_PERMUTATIONS, seed=0
        )
        self._lsh = rensa.RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=bands(threshold))
        self._threshold = threshold
        self.captions: list[tuple[Prompt, str, str]] = []
        self.prompts: dict[int, frozenset[str]] = {}
        self.leaks: dict[int, Leak] = {}
        self._exact: dict[str, list[int]] = {}
        self._normalised: dict[str, list[int]] = {}
        for prompt in bench:
            self._add(prompt)
        if not self.prompts:
            raise NbenchError("the bench has no prompts: nothing to compare")
        for batch in _batches(self.prompts):
            sets = [list(self.prompts[number]) for number in batch]
            for number, signature in zip(batch, self._signatures(sets), strict=True):
                self._lsh.insert(number, signature)

    def _add(self, prompt: Prompt) -> None:
        for caption, text in {PROMPT: prompt.text, **(prompt.corruptions or {})}.items():
            if not text:
                continue
            number, plain = len(self.captions), normalise(text)
            self.captions.append((prompt, caption, text))
            self._exact.setdefault(text, []).append(number)
            self._normalised.setdefault(plain, []).append(number)
            if caption == PROMPT:
                self.prompts[number] = frozenset(shingles(plain))

    def compare(self, train: Iterable[Prompt]) -> None:
        """Record which captions of the bench these training captions match."""
        prompts = [prompt for prompt in train if prompt.text]
        plain = [normalise(prompt.text) for prompt in prompts]
        sets = [shingles(text) for text in plain]
        for prompt, text, pieces, signature in zip(prompts, plain, sets, self._signatures(sets), strict=True):
            equal = dict.fromkeys(self._normalised.get(text, ()), "normalised")
            equal |= dict.fromkeys(self._exact.get(prompt.text, ()), "exact")
            for number, kind in equal.items():
                self._note(number, prompt, kind, 1.0)
            near = [number for number in self._lsh.query(signature) if number not in equal]
            own = frozenset(pieces) if near else frozenset()
            for number in near:
                similarity = jaccard(own, self.prompts[number])
                if similarity >= self._threshold:
                    self._note(number, prompt, "near", similarity)

    def _note(self, number: int, train: Prompt, kind: str, similarity: float) -> None:
        leak = self.leaks.get(number)
        count = 1 + (leak.count if leak else 0)
        if leak and (KINDS.index(leak.kind), -leak.similarity) <= (KINDS.index(kind), -similarity):
            kind, similarity, train_id, train_text = leak.kind, leak.similarity, leak.train_id, leak.train_text
        else:
            train_id, train_text = train.id, train.text
        prompt, caption, text = self.captions[number]
        self.leaks[number] = Leak(prompt.id, caption, text, kind, similarity, count, train_id, train_text)


def _dataset_prompts(source: str) -> Iterator[Prompt]:
    """The prompts of a data set, each once; its rows are prompt by prompt."""
    last = None
    for batch in open_bench(source).rows(["prompt_id", "prompt", "corruptions"], 4096):
        for row in batch.to_pylist():
            if row["prompt_id"] != last:
                last, corruptions = row["prompt_id"], row["corruptions"] or {}
                yield Prompt(
                    last, row["prompt"], corruptions={kind: text for kind, text in corruptions.items() if text}
                )


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _rensa() -> Any:
    try:
        import rensa
    except ImportError:
        raise NbenchError("near duplicates need the package rensa: pip install 'nbench[leak]'") from None
    return rensa
