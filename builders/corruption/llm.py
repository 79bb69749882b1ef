"""Near misses by a language model: one question per kind, its answer judged, asked again if unfit, and saved."""

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
    """Something that replies to a chat; thread-safe."""

    @property
    def model(self) -> str:
        """Its name."""
        ...

    def reply(self, chat: list[dict[str, str]], seed: int, temperature: float) -> str:
        """The model's reply."""
        ...

    def stop(self) -> None:
        """Give up pending requests."""
        ...


class LlmEngine:
    """Asks `concurrency` questions at a time. `answers` supplies saved answers and saves new ones.

    If all replies to a question are unfit, the change is failed, and saved too; `retry_failed` asks again.
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
        saved = self._answers.get(key)
        if saved and not (self._retry_failed and saved.status == "failed"):
            return saved
        change = self._ask(caption, kind, int(key[:8], 16) >> 1)
        self._answers.keep(key, change)
        return change

    def _ask(self, caption: str, kind: str, seed: int) -> Change:
        reason = ""
        for attempt in range(_TRIES):
            reply = self._model.reply(messages(caption, kind), seed + attempt, _WARM if attempt else 0.0)
            try:
                return judged(reply, caption, kind)
            except Unfit as unfit:
                reason = str(unfit)
        return Change(kind, "failed", error=reason)
