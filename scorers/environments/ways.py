"""The ways to a scorer in another process, as names for `--model`: python:, uv:, http:, env: and t2v:."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import NbenchError
from ...shards.schema import LatentSpace
from ..placement import Placement
from ..protocols import Scorer
from .client import Servers, parse_urls
from .messages import hello_request
from .packages import ADAPTERS, PACKAGES, python_of
from .process import WorkerProcess
from .remote import remote_scorer
from .uv import script_python


def python_scorer(rest: str, space: LatentSpace, placement: Placement) -> Scorer:
    """The scorer of python:PYTHON:FACTORY, where PYTHON may be an environment's folder.

    Raises:
        NbenchError: no such Python or scorer.
    """
    match = re.fullmatch(r"(.+?):([^:]+:\w+)", rest)
    if match is None:
        raise NbenchError(f"python:{rest} lacks a part: give python:PYTHON:FILE.py:CLASS or python:PYTHON:MODULE:CLASS")
    python, factory = Path(match[1]).expanduser(), match[2]
    if python.is_dir():
        python /= "bin/python"
    return _in_process(python, _existing(factory), f"python:{rest}", space, placement)


def uv_scorer(rest: str, space: LatentSpace, placement: Placement) -> Scorer:
    """The scorer of uv:FILE.py:CLASS, in the environment of the file's inline metadata.

    Raises:
        NbenchError: no such scorer, or its environment cannot be made.
    """
    file, colon, name = rest.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise NbenchError(f"uv:{rest} is not a script's class: give uv:FILE.py:CLASS")
    file = _existing(rest).rpartition(":")[0]
    return _in_process(script_python(file), f"{file}:{name}", f"uv:{rest}", space, placement)


def http_scorer(rest: str, space: LatentSpace, placement: Placement) -> Scorer:
    """The scorer of http:URL, or of http:URL+URL for several servers.

    Raises:
        NbenchError: not URLs, or no scorer's server there.
    """
    urls = parse_urls(rest)
    return remote_scorer(Servers(urls, hello_request(space, placement)), urls[0])


def env_scorer(rest: str, space: LatentSpace, placement: Placement) -> Scorer:
    """The scorer of env:NAME or env:NAME:MODEL, in the environment that `nbench env NAME` has made.

    Raises:
        NbenchError: no such environment or model.
    """
    name, _, model = rest.partition(":")
    return _of_package(name, model, f"env:{rest}", space, placement)


def t2v_scorer(rest: str, space: LatentSpace, placement: Placement) -> Scorer:
    """The scorer of t2v:MODEL: a model of t2v_metrics in its environment.

    Raises:
        NbenchError: the environment has not been made, or there is no such model.
    """
    return _of_package("t2v_metrics", rest, f"t2v:{rest}", space, placement)


def _of_package(name: str, model: str, label: str, space: LatentSpace, placement: Placement) -> Scorer:
    python = python_of(name)
    own = {"model": model} if model else {}
    return _in_process(python, f"{ADAPTERS}:{PACKAGES[name].scorer}", label, space, placement, own)


def _in_process(
    python: Path,
    factory: str,
    label: str,
    space: LatentSpace,
    placement: Placement,
    own: dict[str, str] | None = None,
) -> Scorer:
    process = WorkerProcess(python, factory, label, hello_request(space, placement, own))
    return remote_scorer(process, label)


def _existing(factory: str) -> str:
    """FILE.py:CLASS with the file's full path; MODULE:CLASS as it is."""
    source, _, name = factory.rpartition(":")
    if not source.endswith(".py"):
        return factory
    file = Path(source).expanduser()
    if not file.is_file():
        raise NbenchError(f"no file {source}: `nbench models new {file.name}` writes one")
    return f"{file.resolve()}:{name}"
