"""The options that select prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ...errors import check_range
from ...options import Argument, panel

WORLD = "shapes"
SOURCES = "a data set on the Hub (user/name[@revision][:split]), a CSV, TSV, JSONL, Parquet or text file, or - (stdin)"
"""Where prompts come from besides the sets that have a name, in words for the command line."""
prompt_option = panel("Prompts")


@dataclass(frozen=True, kw_only=True)
class PromptSelection:
    """Which prompts of a source to take.

    A column that is None has the source's own name. `tags` (skills, or "basic" and "advanced") keep the prompts with at
    least one of them; of these the first `limit` are taken. `sample` of them are drawn without replacement, by `seed`,
    and stay in the order of the source. `skip_bad` leaves out rows without a prompt and repeated ids.

    Raises:
        NbenchError: a limit or sample below 1.
    """

    prompt_column: Annotated[str | None, prompt_option("Column of the texts. [default: the source's]")] = None
    id_column: Annotated[str | None, prompt_option("Column of the ids. [default: the source's]")] = None
    limit: Annotated[int | None, prompt_option("Take at most the first LIMIT prompts.")] = None
    sample: Annotated[int | None, prompt_option("Draw this many of the prompts at random; see --seed.")] = None
    tags: Annotated[
        tuple[str, ...],
        prompt_option("Take only prompts with this skill; repeatable: any of the skills.", flag="--filter-tag"),
    ] = ()
    skip_bad: Annotated[bool, prompt_option("Leave out empty prompts and repeated ids.")] = False
    seed: Annotated[int, prompt_option("Seed of random draws.")] = 0

    def __post_init__(self) -> None:
        check_range("--limit", self.limit)
        check_range("--sample", self.sample)


@dataclass(frozen=True)
class PromptRequest(PromptSelection):
    """A source of prompts, and which of them to take.

    `source` is "shapes", "genai-bench", "genai-bench-527", "cc12m", `user/name[@revision][:split]` on the Hub, a file,
    or "-", standard input.
    """

    source: Annotated[
        str | Path, Argument(f"shapes, genai-bench, cc12m, {SOURCES}.", flag="prompts", required=True)
    ] = WORLD
