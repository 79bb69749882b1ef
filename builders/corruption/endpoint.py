"""A language model behind an OpenAI-compatible HTTP endpoint, such as vLLM's."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from ...errors import NbenchError, reason_of
from .judge import MOST_TOKENS, schema

_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_LONGEST_WAIT = 60.0
_MOST_BYTES = 1 << 20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, so that the key reaches no other host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Endpoint:
    """Asks `model` at `url` (which ends in /v1); the environment variable `key_name` holds the key.

    Transient failures (429, 5xx, a broken connection, no answer within `timeout_s`) are retried: `attempts` in all, the
    first pause `wait_s`, each next one twice as long, with jitter; `Retry-After` is obeyed, up to a minute.

    Raises:
        NbenchError: the address is not valid.
    """

    url: str
    model: str
    key_name: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    attempts: int = 8
    wait_s: float = 1.0
    _stopped: threading.Event = field(default_factory=threading.Event, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise NbenchError(
                "--endpoint is not an address: give one like http://localhost:8000/v1, without a password"
            )

    def reply(self, chat: list[dict[str, str]], seed: int, temperature: float) -> str:
        """The model's reply; "" if the endpoint's answer has no text.

        Raises:
            NbenchError: the endpoint refuses, or does not answer after all attempts.
        """
        form = {"type": "json_schema", "json_schema": {"name": "near_miss", "schema": schema(), "strict": True}}
        body = {
            "model": self.model,
            "messages": chat,
            "seed": seed,
            "temperature": temperature,
            "max_tokens": MOST_TOKENS,
        }
        data = json.dumps(body | {"response_format": form}).encode()
        for attempt in range(self.attempts):
            try:
                return _text(self._post(data))
            except urllib.error.HTTPError as error:
                reason, wait = f"HTTP {error.code}", error.headers.get("Retry-After", "")
                error.close()
                if error.code not in _TRANSIENT:
                    raise NbenchError(f"{self._place} refuses ({reason}): {_way_out(error.code, self)}") from None
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)
                reason, wait = reason_of(cause if isinstance(cause, BaseException) else error), ""
            if attempt + 1 < self.attempts and self._stopped.wait(self._wait(attempt, wait)):
                break
        raise NbenchError(
            f"{self._place} does not answer after {self.attempts} attempts ({reason}): run the same command again later"
        )

    def stop(self) -> None:
        """Give up pending retries."""
        self._stopped.set()

    @property
    def _place(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_name):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url.rstrip("/") + "/chat/completions", data, headers)
        with _OPENER.open(request, timeout=self.timeout_s) as answer:
            return bytes(answer.read(_MOST_BYTES))

    def _wait(self, attempt: int, retry_after: str) -> float:
        least = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else self.wait_s * 2**attempt
        return min(_LONGEST_WAIT, least) * random.uniform(1.0, 1.5)


def _way_out(status: int, endpoint: Endpoint) -> str:
    if status in (401, 403):
        return f"put its key into the environment variable {endpoint.key_name}"
    if status == 404:
        return f"does it end in /v1, and does it serve {endpoint.model}?"
    return "see the log of the server"


def _text(body: bytes) -> str:
    try:
        content: Any = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return content if isinstance(content, str) else ""
