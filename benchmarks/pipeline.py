"""The pipeline that a bench was built with."""

from __future__ import annotations

import re

from ..builders.aliases import PipelineEntry
from ..builders.options import PipelineOptions
from ..builders.pipelines import resolve_pipeline
from ..errors import NbenchError
from ..shards.reader import Bench


def pipeline_of(bench: Bench) -> PipelineEntry:
    """The pipeline that `bench` was built with, found by its name and, on the Hub, by its commit.

    Raises:
        NbenchError: it is not to be found, or is another by now.
    """
    made_by = bench.info.spec.get("pipeline", {})
    name, content = str(made_by.get("name", "unknown")), str(made_by.get("content"))
    entry = resolve_pipeline(name, PipelineOptions(revision=content if _COMMIT.fullmatch(content) else None))
    if entry.content != content:
        raise NbenchError(f"pipeline {name} is another than {bench.location.url} was built with")
    return entry


_COMMIT = re.compile("[0-9a-f]{40}")
