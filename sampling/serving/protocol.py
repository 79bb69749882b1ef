"""Requests, answers and errors in the shapes of OpenAI's API of images."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Sequence
from typing import Any, Literal

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...benchmarks.metrics.declaration import or_none
from ..bestofn import BestOfNResult
from ..pruned_batch import Progress

Format = Literal["png", "jpeg", "webp"]


class ImageRequest(BaseModel):
    """The body of `POST /v1/images/generations`; fields that only other servers understand are ignored."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1)
    model: str | None = None
    n: int = Field(1, ge=1, le=10)
    size: str = "auto"
    seed: int | None = Field(None, ge=0, lt=2**63)
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Format = "png"
    stream: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """OpenAI's protocol takes null for a field that is left out."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class Refused(Exception):
    """A request that is not served: the HTTP status, and the error as OpenAI's clients read it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = {"Retry-After": "1"} if status == 429 else {}


def parsed(body: bytes) -> ImageRequest:
    """The request in a body.

    Raises:
        Refused: 400: it is not JSON, or a field has another form.
    """
    try:
        return ImageRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"])) or None
        raise Refused(400, f"{param or 'the body'}: {first['msg']}", param, "invalid_value") from None


def answer(result: BestOfNResult, seed: int, size: str, file_format: Format) -> dict[str, Any]:
    """The answer with the images, best first, and under `nbench` their scores and what pruning saved."""
    scores = {candidate.seed: list(candidate.scores.values())[-1:] for candidate in result.candidates}
    return {
        "created": int(time.time()),
        "output_format": file_format,
        "size": size,
        "data": [
            {
                "b64_json": _encoded(image, file_format),
                "seed": number,
                "score": next(map(or_none, scores[number]), None),
            }
            for image, number in zip(result.images, result.seeds, strict=True)
        ],
        "nbench": {
            "seed": seed,
            **result.to_dict(),
            "saved": 1 - result.denoiser_rows / result.full_denoiser_rows,
        },
    }


def progress_event(progress: Progress) -> dict[str, Any]:
    """A server-sent event after a step of a request."""
    scores = {str(number): or_none(score) for number, score in progress.scores.items()}
    return {
        "type": "nbench.progress",
        "position": progress.position,
        "steps": progress.steps,
        "living": list(progress.living),
        "scores": scores,
    }


def completed_events(whole: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The events that end a stream: one per image, the first with the whole answer's account."""
    usage = {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": 0,
        "total_tokens": 0,
    }
    common = {
        "type": "image_generation.completed",
        "created_at": whole["created"],
        "background": "opaque",
        "quality": "auto",
        "output_format": whole["output_format"],
        "size": whole["size"],
        "usage": usage,
        "nbench": whole["nbench"],
    }
    return [{**common, **image} for image in whole["data"]]


def sent(event: dict[str, Any]) -> bytes:
    """An event as it goes over the wire."""
    return f"event: {event.get('type', 'error')}\ndata: {json.dumps(event)}\n\n".encode()


def _encoded(image: Image, file_format: Format) -> str:
    image.save(buffer := io.BytesIO(), file_format)
    return base64.b64encode(buffer.getvalue()).decode()
