"""Near misses by a language model: asked for one kind at a time, judged, asked again, and kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from .answers import AnswerFile, answer_key
from .change import Change
from .judge import SYSTEM, Unfit, judged, messages

_TRIES = 4
_WARM = 0.7
"""Temperature of every try after the first, which is greedy."""
_AHEAD = 4


class ChatModel(Protocol):
    """Something that replies to a chat; safe among threads."""

    @property
    def model(self) -> str:
        """Its name."""
        ...

    def reply(self, chat: list[dict[str, str]], seed: int, temperature: float) -> str:
        """What the model says."""
        ...

    def stop(self) -> None:
        """Give up what is waiting."""
        ...


class LlmEngine:
    """Asks `concurrency` questions at a time. Answers come from `answers` where they are known, and go there.

    A model whose replies are unfit in all tries gives a failed change, which is kept too; with `retry_failed` it is
    asked again.
    """

    name = "llm"

    def __init__(
        self, model: ChatModel, answers: AnswerFile, seed: int, concurrency: int, retry_failed: bool = False
    ) -> None:
        self._model, self._answers, self._seed = model, answers, seed
        self._concurrency, self._retry_failed = concurrency, retry_failed

    def changes(self, captions: Sequence[str], kinds: Sequence[str]) -> Iterator[list[Change]]:
        pending: deque[list[Future[Change]]] = deque()
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            for caption in captions:
                pending.append([pool.submit(self._change, caption, kind) for kind in kinds])
                if len(pending) > self._concurrency * _AHEAD:
                    yield [answer.result() for answer in pending.popleft()]
            while pending:
                yield [answer.result() for answer in pending.popleft()]
        except BaseException:
            self._model.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _change(self, caption: str, kind: str) -> Change:
        key = answer_key(SYSTEM, self._model.model, self._seed, kind, caption)
        known = self._answers.get(key)
        if known and not (self._retry_failed and known.status == "failed"):
            return known
        change = self._asked(caption, kind, int(key[:8], 16) >> 1)
        self._answers.keep(key, change)
        return change

    def _asked(self, caption: str, kind: str, seed: int) -> Change:
        reason = ""
        for attempt in range(_TRIES):
            reply = self._model.reply(messages(caption, kind), seed + attempt, _WARM if attempt else 0.0)
            try:
                return judged(reply, caption, kind)
            except Unfit as unfit:
                reason = str(unfit)
        return Change(kind, "failed", error=reason)
