"""A process that asks a running server for trajectories: SGLang-Diffusion, by its rollouts."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import NbenchError, one_line, reason_of
from ...pipelines.aliases import PipelineEntry
from ...pipelines.options import PipelineOptions
from ...shards.signals import DEFAULT_SIGNALS
from ..candidates import Candidates, Plan, Resolve
from ..config import BuildConfig
from ..planning.timing import Timing
from ..prompts.choose import PromptSet
from ..prompts.rows import Prompt
from ..spec import build_spec
from .reverse import Reverse

if TYPE_CHECKING:
    from ...pipelines.generate import Trajectories
    from ..importing.sglang import Answer

_PATH = "/rollout/generate"
_TIMEOUT = 1800
_MOST_BYTES = 2**31
_PAUSES = (1.0, 5.0, 20.0)
"""Seconds before each further attempt."""
_BUSY = (429, 502, 503, 504)
_SENT = ("guidance", "height", "width", "negative_prompt", "arguments")
"""Options that a server is asked with; all others change how a pipeline is loaded or run here."""


class _FailedError(Exception):
    """The server could not make an image."""


@dataclass(frozen=True)
class Server:
    """A server and the model that it runs, as http://HOST:PORT#MODEL."""

    url: str
    model: str

    @classmethod
    def parse(cls, text: str) -> Server:
        """Parse a --pipeline.

        Raises:
            NbenchError: no model is named.
        """
        url, _, model = text.partition("#")
        if not model:
            raise NbenchError(
                f"--pipeline {text} does not name the server's model: write {url}#MODEL, as in #user/name"
            )
        return cls(url.rstrip("/"), model)

    def check(self) -> None:
        """Check that the server answers and, if it lists its models, has this one.

        Raises:
            NbenchError: it does not.
        """
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=60) as response:
                listed = json.loads(response.read(_MOST_BYTES))
        except urllib.error.HTTPError:
            return  # it answers, and lists none
        except (OSError, ValueError) as error:
            raise NbenchError(f"no server answers at {self.url} ({_reason(error)}): start it, or fix the URL") from None
        entries = listed.get("data") if isinstance(listed, dict) else None
        names = [str(each.get("id")) for each in entries or [] if isinstance(each, dict)]
        if names and self.model not in names:
            raise NbenchError(f"{self.url} runs {one_line(', '.join(names))}, not {self.model}: name what it runs")

    def ask(self, request: Mapping[str, Any]) -> Any:
        """The answer to a rollout; a busy server is asked again.

        Raises:
            NbenchError: it cannot be reached, refuses the request, or answers in another way than SGLang-Diffusion.
            _FailedError: it failed at every attempt.
        """
        failure: Exception | None = None
        for pause in (0.0, *_PAUSES):
            time.sleep(pause)
            try:
                return self._ask(request)
            except urllib.error.HTTPError as error:
                detail = _detail(error)
                if error.code not in _BUSY and error.code < 500:
                    way = "this is no SGLang-Diffusion with rollouts" if error.code == 404 else "change the options"
                    raise NbenchError(
                        f"{self.url}{_PATH} refuses the request ({error.code}: {detail}): {way}"
                    ) from None
                failure = _FailedError(f"the server answers {error.code}: {detail}")
            except (OSError, EOFError) as error:
                failure = NbenchError(f"{self.url} cannot be reached ({_reason(error)}): run the same command again")
        assert failure is not None
        raise failure from None

    def _ask(self, request: Mapping[str, Any]) -> Any:
        from ..importing.tensor_files import decoded, unpacked

        posted = urllib.request.Request(
            f"{self.url}{_PATH}", json.dumps(request).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(posted, timeout=_TIMEOUT) as response:
            kind = response.headers.get_content_type()
            data = response.read(_MOST_BYTES)
        if kind not in ("application/msgpack", "application/x-msgpack", "application/json"):
            raise NbenchError(
                f"{self.url} answers in {one_line(kind)}: nbench reads MessagePack and JSON, and unpickles nothing"
            )
        try:
            return decoded(json.loads(data) if kind == "application/json" else unpacked(data))
        except NbenchError:
            raise
        except Exception as error:  # damaged bytes raise whatever they lead to
            raise NbenchError(f"{self.url} gives an answer that cannot be read ({reason_of(error)})") from None


def is_served(pipeline: str) -> bool:
    """Whether a --pipeline names a server."""
    return pipeline.startswith(("http://", "https://"))


class LoadedServer:
    """A server that has answered; see `LoadedProcess`."""

    def __init__(self, server: Server, arguments: Mapping[str, Any], steps: int) -> None:
        self._server, self._arguments, self._steps = server, dict(arguments), steps
        self._shapes: tuple[tuple[int, ...], tuple[int, ...], list[Any]] | None = None
        server.check()

    def make(
        self,
        candidates: Candidates,
        positions: Collection[int],
        signals: Collection[str],
        on_step: Callable[[float], None] = lambda share: None,
    ) -> Trajectories:
        """Trajectories of the candidates, each by a request of its own; all of them at a time."""
        import torch

        from ...pipelines.generate import Trajectories
        from ..importing.trajectory import as_image, as_latent

        wanted, errors = sorted({*positions, self._steps}), list[str]()
        latents: dict[int, list[torch.Tensor]] = {k: [] for k in positions}
        images = list[np.ndarray]()
        with ThreadPoolExecutor(len(candidates.prompts)) as pool:
            asked = [
                pool.submit(self._answer, prompt, seed, wanted)
                for prompt, seed in zip(candidates.prompts, candidates.seeds, strict=True)
            ]
            answers = [future.exception() or future.result() for future in asked]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, _FailedError):
                raise answer
        for answer in answers:
            try:
                if isinstance(answer, BaseException):
                    raise answer
                image = as_image(answer.image) if answer.image is not None else None
                if image is None:
                    raise _FailedError("the server sent no image")
                held = dict(zip(answer.steps.held, answer.latents, strict=True))
                made = {k: as_latent(held[k], (image.shape[0], image.shape[1])) for k in positions}
            except KeyError as error:
                raise NbenchError(f"{self._server.url} sent no latent of position {error}: it may be too old") from None
            except ValueError as error:
                raise NbenchError(f"{self._server.url} sent what cannot be recorded: it {error}") from None
            except _FailedError as failed:
                errors.append(one_line(str(failed)))
                images.append(np.empty(0))
                for rows in latents.values():
                    rows.append(torch.empty(0))
                continue
            shapes = (tuple(next(iter(made.values())).shape), image.shape, list(answer.steps.places))
            self._shapes = self._shapes or shapes
            if shapes != self._shapes:
                raise NbenchError(
                    f"{self._server.url} sent images or schedules of different kinds: give --height and --width"
                )
            errors.append("")
            images.append(image)
            for k, rows in latents.items():
                rows.append(made[k])
            on_step(1.0)
        if self._shapes is None:
            raise NbenchError(f"{self._server.url} made no image: {errors[0]}")
        shape, size, places = self._shapes
        nothing, black = torch.zeros(shape), np.zeros(size, np.uint8)  # of failed rows, which are not stored
        return Trajectories(
            {k: torch.stack([row if row.numel() else nothing for row in rows]) for k, rows in latents.items()},
            np.stack([image if image.size else black for image in images]),
            places,
            tuple(errors),
        )

    def note(self, prompts: Sequence[Prompt]) -> str:
        """Nothing: the server's text encoders are not known."""
        return ""

    def _answer(self, prompt: str, seed: int, positions: Sequence[int]) -> Answer:
        from ..importing.sglang import sglang_answers

        tree = self._server.ask(
            {
                "prompt": prompt,
                "seed": seed,
                "generator_device": "cpu",  # where nbench draws noise, too
                "num_inference_steps": self._steps,
                "num_outputs_per_prompt": 1,
                "rollout": True,
                "rollout_sde_type": "ode",  # as without rollout: no noise is added
                "rollout_noise_level": 0.0,
                "rollout_debug_mode": False,
                "rollout_return_dit_trajectory": True,
                "rollout_return_step_indices": list(positions),
                "suppress_logs": True,
                **self._arguments,
            }
        )
        try:
            [answer] = sglang_answers(tree, self._steps)
        except ValueError as error:
            raise NbenchError(f"{self._server.url} gives another answer than one rollout: it {error}") from None
        if (answer.prompt, answer.seed) != (prompt, seed):
            raise NbenchError(f"{self._server.url} answers for another prompt or seed than asked")
        return answer


class Served(Reverse):
    """The build of `config` by a server; see `Process`."""

    def plan(self, chosen: PromptSet, resolve: Resolve | None = None) -> Plan:
        """Each prompt with its candidates; the spec has the model's name, not the server's."""
        server = Server.parse(self.config.pipeline)
        _check(self.config)
        entry = PipelineEntry(server.model, server.url, content=f"served:{server.model}")
        spec = build_spec(self.config, entry, chosen.prompts, chosen.source, scheduler={"class": None})
        arguments = dict(self.config.options.call_kwargs)
        spec |= {"process": "served", "protocol": "sglang", "dtype": None, "call_kwargs": arguments}
        return Plan(self.config, entry, chosen.prompts, spec)

    def load(self, plan: Plan) -> LoadedServer:  # type: ignore[override]  # a process loads what it makes rows by
        """The server, which must answer."""
        return LoadedServer(Server.parse(self.config.pipeline), _arguments(plan.spec), plan.spec["steps"])

    def time(self) -> Timing:
        """Refused: a server's speed depends on what else it does."""
        raise NbenchError("a server is not timed: add --no-timing")

    @staticmethod
    def reload(spec: Mapping[str, Any], pipeline: str | None, loras: Sequence[str] = ()) -> LoadedServer:  # type: ignore[override]
        """The server that runs the model of a data set now.

        Raises:
            NbenchError: it is not named, does not answer, or runs another model.
        """
        model = spec["pipeline"]["name"]
        if pipeline is None or not is_served(pipeline):
            raise NbenchError(
                f"a server made this data set: give one that runs the model, --pipeline http://HOST#{model}"
            )
        server = Server.parse(pipeline)
        if server.model != model:
            raise NbenchError(f"this data set was made by {model}, not by {server.model}")
        return LoadedServer(server, _arguments(spec), spec["steps"])


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that the options decide."""
    named = {key: value for key, value in spec["call_kwargs"].items() if key in ("height", "width", "negative_prompt")}
    extra = {key: value for key, value in spec["call_kwargs"].items() if key not in named}
    guidance = {} if spec["guidance"] is None else {"guidance_scale": spec["guidance"]}
    return {**named, **guidance, **({"extra_sampling_params": extra} if extra else {})}


def _check(config: BuildConfig) -> None:
    default = PipelineOptions()
    changed = {
        each.name for each in fields(default) if getattr(config.options, each.name) != getattr(default, each.name)
    }
    if other := sorted(changed - {*_SENT}):
        name = {"config": "pipeline-config"}.get(other[0], other[0].replace("_", "-"))
        raise NbenchError(f"--{name} is for pipelines that run here, not for a server: leave it out")
    if config.dtype is not None:
        raise NbenchError("--dtype is the server's: leave it out")
    if config.signals != DEFAULT_SIGNALS:
        raise NbenchError("--signals other than latent and image need a pipeline that runs here: leave them out")


def _reason(error: Exception) -> str:
    """Why a server cannot be reached; urllib wraps the reason."""
    inner = getattr(error, "reason", None)
    return reason_of(inner if isinstance(inner, BaseException) else error)


def _detail(error: urllib.error.HTTPError) -> str:
    """What a server says of an error."""
    try:
        content = json.loads(error.read(2**16))
        return one_line(str(content.get("detail", content) if isinstance(content, dict) else content))
    except (OSError, ValueError):
        return one_line(str(error.reason))
