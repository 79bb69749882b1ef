"""The HTTP application: requests in OpenAI's protocol, answered by an engine."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ...errors import NbenchError
from ..bestofn import BestOfNResult
from ..engine import Engine
from ..engine_queue import QueueFull
from .metrics import Metrics
from .protocol import ImageRequest, Refused, answer, completed_events, parsed, progress_event, sent

_CLIENT_CLOSED = 499
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Limits:
    """What a server accepts: `model` by its name, `sizes` "WIDTHxHEIGHT" with their arguments, the default first."""

    model: str
    sizes: Mapping[str, dict[str, Any]]
    max_prompt: int = 4000
    max_body: int = 65536


def create_app(engine: Engine, limits: Limits) -> FastAPI:
    """The application. When it ends, the engine is closed and what is left is cancelled."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close, True)

    app = FastAPI(title="nbench", lifespan=lifespan)
    metrics = Metrics(engine)
    model = {"id": limits.model, "object": "model", "created": 0, "owned_by": "nbench"}

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(Refused(error.status_code, str(error.detail)).body, error.status_code, error.headers)

    @app.post("/v1/images/generations", response_model=None)
    async def generate(request: Request) -> Response:
        start = time.perf_counter()
        wanted = parsed(await _body(request, limits.max_body))
        size, arguments = _checked(wanted, limits)
        seed = secrets.randbits(31) if wanted.seed is None else wanted.seed
        loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

        def tell(event: dict[str, Any] | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        future = _submit(engine, wanted, seed, arguments, lambda progress: tell(progress_event(progress)))

        def finished(result: BestOfNResult) -> dict[str, Any]:
            metrics.answered(result, time.perf_counter() - start)
            return answer(result, seed, size, wanted.output_format)

        if not wanted.stream:
            return JSONResponse(finished(await _unless_disconnected(request, future)))
        future.add_done_callback(lambda _: tell(None))

        async def stream() -> AsyncIterator[bytes]:
            try:
                while (event := await events.get()) is not None:
                    yield sent(event)
                for event in completed_events(finished(_result(future))):
                    yield sent(event)
            except Refused as error:
                yield sent(error.body)
            finally:
                future.cancel()

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        _check_model(name, limits)
        return model

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=_METRICS_TYPE)

    @app.api_route("/healthz", methods=["GET", "HEAD"])
    async def health() -> JSONResponse:
        return JSONResponse(
            {"status": "ok"} if engine.is_open else {"status": "closed"}, 200 if engine.is_open else 503
        )

    return app


async def _body(request: Request, most: int) -> bytes:
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Refused(413, f"the request is larger than {most} bytes: shorten it", code="request_too_large")
    except ClientDisconnect:
        raise Refused(_CLIENT_CLOSED, "the client went away", code="cancelled") from None
    return body


def _checked(wanted: ImageRequest, limits: Limits) -> tuple[str, dict[str, Any]]:
    """The size of a request, and the pipeline's arguments for it."""
    if wanted.model is not None:
        _check_model(wanted.model, limits)
    if len(wanted.prompt) > limits.max_prompt:
        raise Refused(
            400,
            f"the prompt is longer than {limits.max_prompt} characters: shorten it",
            "prompt",
            "string_above_max_length",
        )
    size = next(iter(limits.sizes)) if wanted.size == "auto" else wanted.size
    if size not in limits.sizes:
        raise Refused(400, f"no size {size[:40]!r}: use {', '.join(limits.sizes)}", "size", "invalid_value")
    return size, dict(limits.sizes[size])


def _check_model(name: str, limits: Limits) -> None:
    if name != limits.model:
        raise Refused(404, f"no model {name[:100]!r}: {limits.model} is served", "model", "model_not_found")


def _submit(
    engine: Engine, wanted: ImageRequest, seed: int, arguments: dict[str, Any], progress: Any
) -> Future[BestOfNResult]:
    try:
        return engine.submit(wanted.prompt, seed=seed, keep=wanted.n, progress=progress, **arguments)
    except QueueFull as error:
        raise Refused(429, str(error), code="rate_limit_exceeded") from None
    except NbenchError as error:
        status = 400 if engine.is_open else 503
        raise Refused(status, str(error)) from None


async def _unless_disconnected(request: Request, future: Future[BestOfNResult]) -> BestOfNResult:
    """The result of a request; it is cancelled when the client goes away."""
    result = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not future.done():
            future.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await result  # so that its exception counts as read
    return _result(future)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _result(future: Future[BestOfNResult]) -> BestOfNResult:
    if future.cancelled():
        raise Refused(_CLIENT_CLOSED, "the request was cancelled", code="cancelled")
    error = future.exception()
    if error is not None:
        reason = str(error) if isinstance(error, NbenchError) else type(error).__name__
        raise Refused(500, f"the request failed: {reason}", code="generation_failed")
    return future.result()
