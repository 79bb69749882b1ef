"""VQAScore by an OpenAI-compatible server that returns log-probabilities, such as vLLM and SGLang."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import NbenchError, failure_of, one_line
from .environments.client import Connections, checked_url
from .image_processor import to_8_bits
from .protocols import Reads
from .vqascore import QUESTION
from .weights import file_name

KEY = "OPENAI_API_KEY"
"""Environment variable: sent as bearer token if it is set."""
CACHE = "NBENCH_ENDPOINT_CACHE"
"""Environment variable: the file that keeps answers."""
_AT_ONCE = 16
_TOP = 20
"""Log-probabilities that are asked for: the most that servers give by default."""
_SECONDS = 300.0
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_LARGEST_REPLY = 16 * 2**20


class EndpointVQAScorer:
    """A PairScorer: P(first answer token is "Yes") from the top log-probabilities of a chat model; NaN if "Yes" is not
    among them. Answers are kept on disk, so the same image and prompt are asked once.

    Args:
        source: URL#MODEL, with the URL that ends in /v1; without #MODEL, the one model of the server.

    Raises:
        NbenchError: not a URL, no such server or model; from `score`: it refuses, or gives no log-probabilities.
    """

    reads: Reads = "image"

    def __init__(self, source: str) -> None:
        url, _, model = source.partition("#")
        checked_url(url)
        self._url = url.rstrip("/")
        self._server = Connections(self._url, _SECONDS)
        model, root = self._model(model)
        self._about = json.dumps([model, root, QUESTION, _TOP])
        self._request = {
            "model": model,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        self.name = f"vqascore-{file_name(model)}"
        self.fingerprint = hashlib.sha256(self._about.encode()).hexdigest()[:32]
        self._cache = _Cache(f"{self._url} {self._about}")
        self._threads = ThreadPoolExecutor(_AT_ONCE, "nbench-vqascore")

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("Yes") float64 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt; NaN where unknown."""
        images = to_8_bits(inputs).permute(0, 2, 3, 1).cpu().numpy()
        futures = [self._threads.submit(self._probability, *row) for row in zip(images, prompts, strict=True)]
        try:
            return torch.tensor([future.result() for future in futures], dtype=torch.float64)
        finally:
            for future in futures:
                future.cancel()

    def _probability(self, image: Any, prompt: str) -> float:
        key = hashlib.sha256(json.dumps([list(image.shape), prompt]).encode() + image.tobytes()).digest()
        if (known := self._cache.get(key)) is not None:
            return known
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        data = base64.b64encode(file.getvalue()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"type": "text", "text": QUESTION.format(prompt=prompt)},
        ]
        answer = self._ask(
            "POST", "/chat/completions", self._request | {"messages": [{"role": "user", "content": content}]}
        )
        probability = yes_probability(answer, self._url)
        self._cache.put(key, probability)
        return probability

    def _model(self, model: str) -> tuple[str, str]:
        """The name of the model, and where the server has its weights from, if it says so."""
        answer = self._ask("GET", "/models")
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
            raise NbenchError(f"{self._url} does not list its models: give the URL that ends in /v1")
        models = {str(row["id"]): str(row.get("root") or "") for row in rows}
        if not model and len(models) == 1:
            (model,) = models
        if model not in models:
            names = one_line(", ".join(models), 300)
            raise NbenchError(
                f"{self._url} has no model {one_line(model, 100) or '(none named)'}: add #MODEL of {names}"
            )
        return model, models[model]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON reply; waits and tries again if the server is busy or gone for a while."""
        key = os.environ.get(KEY)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        for pause in _PAUSES:
            time.sleep(pause)
            try:
                status, reply = self._server.request(method, path, data, headers, _LARGEST_REPLY)
            except (OSError, http.client.HTTPException) as error:
                reason = failure_of(error)
                continue
            if status == 200:
                try:
                    return json.loads(reply)
                except (ValueError, RecursionError):
                    raise NbenchError(
                        f"{self._url}{path} does not reply with JSON: give the URL that ends in /v1"
                    ) from None
            reason = f"status {status}: {one_line(' '.join(reply[:300].decode(errors='replace').split()))}"
            if status not in _TRANSIENT:
                raise NbenchError(f"{self._url}{path} refuses ({reason}): check the URL, the model and {KEY}")
        raise NbenchError(f"no answer from {self._url} after {len(_PAUSES)} attempts ({reason}): run the command again")


def yes_probability(answer: Any, origin: str) -> float:
    """P("Yes") from a chat completion; NaN if "Yes" is not among the top log-probabilities of the first token.

    Raises:
        NbenchError: it has no log-probabilities.
    """
    try:
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        tokens = {row["token"]: float(row["logprob"]) for row in reversed(top)}
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        raise NbenchError(
            f"{origin} gives no top log-probabilities: VQAScore needs a server that does, such as vLLM or SGLang"
        ) from None
    if "Yes" not in tokens:
        return math.nan
    if not tokens["Yes"] <= 1e-6:
        raise NbenchError(f"{origin} gives a log-probability of {tokens['Yes']:g}, which is not below 0")
    return math.exp(min(0.0, tokens["Yes"]))


class _Cache:
    """Answers by image and prompt, in a file shared by all runs; `about` identifies the server, model and question."""

    def __init__(self, about: str) -> None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self._path = Path(os.environ.get(CACHE) or folder / "nbench" / "endpoints.sqlite").expanduser()
        self._about, self._lock = hashlib.sha256(about.encode()).digest(), threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            self._execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise NbenchError(f"{self._path} cannot keep answers ({failure_of(error)}): set {CACHE}") from None

    def get(self, key: bytes) -> float | None:
        """The answer; None if there is none yet."""
        rows = self._execute("SELECT score FROM answers WHERE key = ?", self._about + key)
        return None if not rows else math.nan if rows[0][0] is None else float(rows[0][0])

    def put(self, key: bytes, score: float) -> None:
        """Keep an answer; NaN becomes null."""
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", self._about + key, score)

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, closing(self._file.execute(statement, values)) as rows:
            return rows.fetchall()
