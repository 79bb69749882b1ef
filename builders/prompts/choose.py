"""The prompts of a build: from the embedded world, a file or the Hub, checked, filtered and sampled."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from ...errors import NbenchError, one_line
from ...options import local_path
from ...shapes import grammar
from ...shards.schema import SKILL_LEVELS
from .files import SUFFIXES, file_table, stdin_table
from .hub import NAMES, hub_table, is_hub_name
from .request import WORLD, PromptRequest
from .rows import Prompt, Table, table_prompts, unread_note
from .seen import SeenTexts
from .spill import kept

__all__ = [
    "WORLD",
    "WORLD_PROMPTS",
    "Prompt",
    "PromptRequest",
    "PromptSet",
    "choose",
    "load_prompts",
    "prompt_table",
    "read_prompts",
    "world_prompts",
]

WORLD_PROMPTS = {"genai-bench": 200, "ncc": 4000}
MAX_REPEATS = 1000
"""After this many repeated captions in a row the grammar, which generates without end, counts as exhausted."""
_NAMED = 3


@dataclass(frozen=True)
class PromptSet:
    """The prompts (`spill.kept`), the name of their source in a build's spec, and notes for the user."""

    prompts: Sequence[Prompt]
    source: str
    notes: tuple[str, ...] = ()


def load_prompts(request: PromptRequest, kind: str = "genai-bench") -> PromptSet:
    """The prompts that `request` selects; of the embedded world, from those of a data set of `kind`.

    Reading stops at the last selected prompt, so that a limit fetches little of a large source.

    Raises:
        NbenchError: the source does not exist, cannot be read or lacks a column; no prompts, or too few; without
            `skip_bad`, empty prompts or repeated ids.
    """
    if request.source == WORLD:
        if request.prompt_column or request.id_column:
            raise NbenchError(f"{WORLD} is not a table: leave --prompt-column and --id-column out")
        prompts = world_prompts(kind, None if request.tags else request.limit)
        return _Choice(request, WORLD).of(prompts, WORLD)
    table = prompt_table(request.source)
    return choose(request, table_prompts(table, request.prompt_column, request.id_column), table)


def choose(request: PromptRequest, prompts: Iterable[Prompt], table: Table) -> PromptSet:
    """Those of `prompts`, which are all of `table`, that `request` selects.

    Raises:
        NbenchError: as `load_prompts`.
    """
    chosen = _Choice(request, table.place).of(prompts, table.source)
    note = unread_note(table) if table.ours else None
    return replace(chosen, notes=(*chosen.notes, note)) if note else chosen


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a CSV, TSV, JSONL, Parquet or text file (one per line).

    Columns: `prompt`; optional `id` (default: the row's number), `tags` and `corruptions` (objects; JSON in a CSV).

    Raises:
        NbenchError: the file is unreadable or empty, lacks a column or prompt, repeats an id or has a malformed value.
    """
    return list(load_prompts(PromptRequest(Path(path))).prompts)


def world_prompts(kind: str, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """The embedded world's prompts: for a "genai-bench" the combinations held out of training, for "ncc" the others.

    Each has corruptions of all kinds: hard negatives for training, and wrong captions for scorers to reject.

    Raises:
        NbenchError: `limit` is more than the world has.
    """
    wanted = WORLD_PROMPTS[kind] if limit is None else limit
    prompts: dict[str, Prompt] = {}
    repeats = 0
    for scene in grammar.scenes(seed, held_out=kind == "genai-bench"):
        if len(prompts) == wanted or repeats == MAX_REPEATS:
            break
        repeats = repeats + 1 if scene.caption in prompts else 0
        if not repeats:
            number, near = len(prompts), grammar.corruptions(scene)
            prompts[scene.caption] = Prompt(f"shapes-{number:05d}", scene.caption, scene.tags, near)
    if len(prompts) < wanted:
        raise NbenchError(f"the shapes world has only about {len(prompts)} different prompts: lower --limit {wanted}")
    return list(prompts.values())


def prompt_table(source: str | Path) -> Table:
    """The unread rows of any source of prompts except the embedded world.

    Raises:
        NbenchError: the source does not exist or cannot be read.
    """
    if isinstance(source, Path):
        return file_table(source)
    if source == "-":
        return stdin_table()
    name = source.partition("@")[0].partition(":")[0]
    path = local_path("--prompts", source)
    # names come first: a folder of that name is not a table, and a file can be given as ./name
    if name not in NAMES and (path.exists() or path.suffix.lower() in SUFFIXES):
        return file_table(path)
    if is_hub_name(source):
        return hub_table(source)
    near = get_close_matches(name, (WORLD, *NAMES), 1)
    hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join((WORLD, *NAMES))}, user/name or a file"
    raise NbenchError(f"no prompts {source!r}: neither a name, nor a data set on the Hub, nor a file here; {hint}")


@dataclass
class _Choice:
    """One pass over prompts, which keeps those that `request` selects."""

    request: PromptRequest
    place: str
    rows: int = 0
    selected: int = 0
    empty: list[int] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    ids: SeenTexts = field(default_factory=SeenTexts)
    tags: set[str] = field(default_factory=set)

    def of(self, prompts: Iterable[Prompt], source: str) -> PromptSet:
        """The selected prompts; `source` is their name in a spec."""
        wanted = self._wanted(prompts)
        chosen = kept(wanted) if self.request.sample is None else _drawn(wanted, self.request.sample, self.request.seed)
        if bad := self._bad():
            problem = f"{self.place}: {bad}"
            if not self.request.skip_bad:
                raise NbenchError(f"{problem}: fix them, or build with --skip-bad, which leaves them out")
        if not self.rows:
            raise NbenchError(f"{self.place} is empty: it needs at least one prompt")
        unknown = set(self.request.tags) - self.tags
        if unknown and (self.request.limit is None or self.selected < self.request.limit):
            hint = f"there are {one_line(', '.join(sorted(self.tags)))}" if self.tags else "no prompt has tags"
            raise NbenchError(f"{self.place}: no prompt has the tag {min(unknown)!r}: {hint}")
        if not chosen:
            raise NbenchError(f"{self.place}: no prompt is left: it needs at least one")
        if self.request.sample is not None and len(chosen) < self.request.sample:
            raise NbenchError(
                f"{self.place}: {len(chosen)} prompts, fewer than --sample {self.request.sample}: lower it"
            )
        return PromptSet(chosen, source, (f"{problem}: left out",) if bad else ())

    def _wanted(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        """The valid prompts that have the tags; bad ones are recorded."""
        for prompt in prompts:
            self.rows += 1
            if not prompt.text:
                self.empty.append(self.rows)
            elif not self.ids.add(prompt.id):
                self.repeated.append(prompt.id)
            elif self._tagged(prompt):
                self.selected += 1
                yield prompt
            if self.selected == self.request.limit:
                return

    def _tagged(self, prompt: Prompt) -> bool:
        if not self.request.tags:
            return True
        skills = prompt.tags or {}
        tags = {
            *(level for level in SKILL_LEVELS if skills.get(level)),
            *(name for names in skills.values() for name in names),
        }
        self.tags |= tags
        return not tags.isdisjoint(self.request.tags)

    def _bad(self) -> str:
        """What is wrong, with the first few cases and their number; "" if nothing is."""
        parts = []
        if self.empty:
            parts.append(f"empty prompts in {len(self.empty)} of {self.rows} rows (row {_few(self.empty)})")
        if self.repeated:
            parts.append(f"repeated ids in {len(self.repeated)} of {self.rows} rows ({_few(map(repr, self.repeated))})")
        return " and ".join(parts)


def _drawn(prompts: Iterable[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` prompts drawn uniformly, in their order; no more are in memory at a time (algorithm R)."""
    rng, reservoir = random.Random(seed), list[tuple[int, Prompt]]()
    for number, prompt in enumerate(prompts):
        if number < count:
            reservoir.append((number, prompt))
        elif (place := rng.randrange(number + 1)) < count:
            reservoir[place] = (number, prompt)
    return [prompt for _, prompt in sorted(reservoir, key=lambda item: item[0])]


def _few(items: Iterable[object]) -> str:
    listed = [str(item) for item in items]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return one_line(", ".join(listed[:_NAMED])) + more
