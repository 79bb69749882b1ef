"""Pruning policies: at which positions candidates are scored, and which of them are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ..errors import NbenchError, reason_of
from ..shards.atomic import write_out
from ..shards.signals import extra_calls

_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"

_STAGE = re.compile(
    rf"(\d{{1,9}}):(\d{{1,9}})(?:p({_NUMBER})(?:w({_NUMBER}(?:\+{_NUMBER})*))?)?(?:r({_NUMBER}))?(?:s({_NUMBER}))?",
    re.ASCII,
)
_TEXT = re.compile(r"\s*(?:\d[\d\s:,.prswe+-]*|[\s:,]+)", re.ASCII)
_FORMS = "write position:keep, as in 20:1 or 10:3,20:1"


@dataclass(frozen=True)
class Stage:
    """At `position` the remaining candidates are scored and the best `keep` of them continue.

    Attributes:
        chance: those whose chance to be the best is lower leave too; the best always continues. The chance is the
            softmax over the remaining candidates of `weights` times a candidate's scores at the latest stages, this one
            last; then "best" means by this sum. No weights: not calibrated yet (`offline.calibration`).
        restart: if no candidate reaches this score, all leave and others are drawn, as long as there are any; then the
            best of all that left goes on.
        resample: the `keep` that continue are copies of the remaining ones, drawn with weights exp(resample times what
            a candidate's score has risen since the last such stage): the particles of FK steering (2501.06848).
    """

    position: int
    keep: int
    chance: float | None = None
    weights: tuple[float, ...] = ()
    restart: float | None = None
    resample: float | None = None

    @property
    def fixed(self) -> bool:
        """Whether it keeps so many of the best, whatever their scores."""
        return self.chance is None and self.restart is None and self.resample is None

    def __str__(self) -> str:
        text = f"{self.position}:{self.keep}"
        if self.chance is not None:
            text += f"p{_plain(self.chance)}"
            text += f"w{'+'.join(map(_plain, self.weights))}" if self.weights else ""
        text += "" if self.restart is None else f"r{_plain(self.restart)}"
        return text if self.resample is None else f"{text}s{_plain(self.resample)}"


def _plain(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


@dataclass(frozen=True)
class Policy:
    """Stages in ascending order of position, each keeping fewer candidates than the one before.

    A stage at the final position T selects among finished latents, so `T:1` alone is plain Best-of-N. `drawn` is the
    number of candidates to draw; None: all n. With a stage that restarts, it is the number to draw at a time, of n in
    all. Stages that are not `fixed` may keep as many as the one before.

    Raises:
        NbenchError: there is no stage, positions do not ascend, or the numbers kept do not descend to 1 or more.
    """

    stages: tuple[Stage, ...]
    drawn: int | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise NbenchError("the policy has no stages: write position:keep, as in 20:1 or 10:3,20:1")
        if self.stages[0].position < 0 or self.stages[-1].keep < 1:
            raise NbenchError(f"policy {self}: positions start at 0 and every stage keeps 1 or more; change it")
        if self.drawn is not None and self.drawn < self.stages[0].keep:
            raise NbenchError(
                f"policy {self}: cannot keep {self.stages[0].keep} of {self.drawn} candidates; keep fewer"
            )
        for count, stage in enumerate(self.stages, 1):
            if stage.chance is not None and not 0 < stage.chance < 1:
                raise NbenchError(f"policy {self}: a chance is in 0..1, as in 4:6p.05; change {_plain(stage.chance)}")
            if stage.resample is not None and (stage.resample <= 0 or stage.chance is not None):
                raise NbenchError(f"policy {self}: write {stage.position}:{stage.keep}s4 to resample, with no chance")
            if len(stage.weights) > count:
                raise NbenchError(
                    f"policy {self}: {stage} has more weights than there are stages so far; leave some out"
                )
        for before, after in pairwise(self.stages):
            if after.position <= before.position:
                raise NbenchError(f"policy {self}: position {after.position} must be later than {before.position}")
            if after.keep >= before.keep + (not after.fixed):
                most = f"fewer candidates than {before.keep}" if after.fixed else f"at most {before.keep} candidates"
                raise NbenchError(f"policy {self}: position {after.position} must keep {most}")

    def __str__(self) -> str:
        """The text that `parse_policy` reads."""
        prefix = [] if self.drawn is None else [str(self.drawn)]
        return ",".join([*prefix, *map(str, self.stages)])

    @property
    def fixed(self) -> bool:
        """Whether costs do not depend on scores."""
        return all(stage.fixed for stage in self.stages)

    @property
    def by_chance(self) -> bool:
        """Whether candidates leave when their chance is low."""
        return any(stage.chance is not None for stage in self.stages)

    @property
    def restarts(self) -> bool:
        """Whether candidates may be drawn again."""
        return any(stage.restart is not None for stage in self.stages)

    @property
    def branches(self) -> bool:
        """Whether candidates are copied, which recorded ones cannot be."""
        return any(stage.resample is not None for stage in self.stages)

    def check_calibrated(self) -> None:
        """Check that every chance has its weights, as a live run needs.

        Raises:
            NbenchError: one has none.
        """
        if any(stage.chance is not None and not stage.weights for stage in self.stages):
            raise NbenchError(
                f"policy {self} has a chance without weights: calibrate it by recorded scores (nbench replay {self} "
                "--bench BENCH --model MODEL --out policy.json), and give the file"
            )

    def of(self, n: int) -> int:
        """How many of `n` candidates are drawn (at a time, if it restarts)."""
        return n if self.drawn is None else self.drawn

    def check(self, n: int, steps: int) -> None:
        """Check that the policy fits `n` candidates and runs of `steps` steps.

        Raises:
            NbenchError: a stage lies after the last step, or more than `n` candidates are drawn or kept.
        """
        if n < 1:
            raise NbenchError(f"{n} candidates leave none to keep: draw 1 or more")
        if self.stages[-1].position > steps:
            raise NbenchError(f"policy {self}: position {self.stages[-1].position} not in 0..{steps}; move it earlier")
        if self.of(n) > n:
            raise NbenchError(f"policy {self}: cannot draw {self.drawn} of {n} candidates; draw fewer")
        if self.stages[0].keep > n:
            raise NbenchError(f"policy {self}: cannot keep {self.stages[0].keep} of {n} candidates; keep fewer")

    def alive(self, n: int) -> tuple[int, ...]:
        """How many candidates each stage scores, at most where stages look at scores.

        >>> parse_policy("10:3,20:1").alive(6)
        (6, 3)
        """
        return (self.of(n), *(stage.keep for stage in self.stages[:-1]))

    def rows(self, n: int, steps: int, calls_per_score: int = 0) -> int:
        """Denoiser rows (calls of one candidate) per prompt, from `n` candidates to the survivors at `steps`.

        Where stages look at scores: without restarts, and with as many survivors as may continue.

        calls_per_score: 1 for scorers that read the x0 estimate: step k computes it for all candidates alive at k, so
        the worst are dropped one step later. 0 for scorers that read the latent alone. L for a look-ahead of L calls,
        of which all candidates alive at k make L - 1 beside the run.

        >>> [parse_policy("20:1").rows(6, 50, calls) for calls in (0, 1, 3)]
        [150, 155, 167]

        Raises:
            NbenchError: the policy does not fit (`check`).
        """
        self.check(n, steps)
        ends = [min(stage.position + min(calls_per_score, 1), steps) for stage in self.stages]
        rows = sum(
            alive * extra_calls(calls_per_score, stage.position, steps)
            for alive, stage in zip(self.alive(n), self.stages, strict=True)
        )
        start = 0
        for alive, end in zip((*self.alive(n), self.stages[-1].keep), (*ends, steps), strict=True):
            rows += alive * (end - start)
            start = end
        return rows


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PolicyStage(_Frozen):
    """A stage in a policy file; the last four are written where a stage has them (`Stage`)."""

    position: int = Field(ge=0)
    keep: int = Field(ge=1)
    chance: float | None = Field(default=None, gt=0, lt=1)
    weights: list[float] = []
    restart: float | None = None
    resample: float | None = None

    @classmethod
    def of(cls, policy: Policy) -> list[PolicyStage]:
        """The stages of a policy."""
        return [cls(**{**vars(stage), "weights": list(stage.weights)}) for stage in policy.stages]

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value not in (None, [])}


class PolicyFile(_Frozen):
    """A policy with the setting that it was tuned for; only the stages are required.

    n: candidates of the full Best-of-n; drawn: how many of them the policy draws, None for all;
    budget: maximum cost as a share of full Best-of-n's cost; expected: figures of the policy in replay.
    """

    format_version: Literal[1] = 1
    stages: list[PolicyStage]
    n: int | None = Field(default=None, ge=1)
    drawn: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    model: str | None = None
    bench_fingerprint: str | None = None
    budget: float | None = Field(default=None, gt=0)
    expected: dict[str, float | None] = {}

    @property
    def policy(self) -> Policy:
        """The policy alone."""
        stages = (Stage(**{**dict(stage), "weights": tuple(stage.weights)}) for stage in self.stages)
        return Policy(tuple(stages), self.drawn)

    def check_setting(self, place: str, model: str, n: int, steps: int) -> None:
        """Compare the setting of a run with the one that the policy in the file `place` was tuned for.

        Raises:
            NbenchError: another scorer, number of candidates or number of steps.
        """
        # `nbench evaluate` names the scorer of `x0-preview:vqascore:data/x0-vqa` by its parts
        same_model = self.model is None or self.model == model or Path(model.rpartition(":")[2]).name in self.model
        if not same_model or self.n not in (None, n) or self.steps not in (None, steps):
            tuned = {"--model": self.model, "--best-of": self.n, "--steps": self.steps}
            options = " ".join(f"{name} {value}" for name, value in tuned.items() if value is not None)
            raise NbenchError(
                f"{place} was tuned for {options}: give these, or its stages alone (--policy {self.policy})"
            )


def parse_policy(text: str) -> Policy:
    """Parse a policy from `text` (`20:1`, `10:3,20:1`: position:keep), or read it from the JSON file at path `text`.

    A number before the stages, as in `4,10:3,20:1`, is the number of candidates to draw. Behind the number to keep,
    `p.05` drops those whose chance to be the best is below .05 (`w3+11`: its weights), `r.6` draws anew if none scores
    .6, and `s4` resamples.

    >>> parse_policy("4, 6:4p.05w3+11, 8:1r.6").stages[0].weights
    (3.0, 11.0)

    Raises:
        NbenchError: `text` is neither a policy nor the path of a policy file.
    """
    if not _TEXT.fullmatch(text):
        return read_policy(Path(text)).policy
    parts = [part.strip() for part in text.split(",")]
    drawn = int(parts.pop(0)) if len(parts) > 1 and parts[0].isdigit() else None
    matches = [_STAGE.fullmatch(part) for part in parts]
    stages = tuple(_stage(match) for match in matches if match)
    if len(stages) < len(matches):
        raise NbenchError(f"policy {text!r} not understood: {_FORMS}, or name a file")
    return Policy(stages, drawn)


def _stage(match: re.Match[str]) -> Stage:
    position, keep, chance, weights, restart, resample = match.groups()
    return Stage(
        int(position),
        int(keep),
        None if chance is None else float(chance),
        tuple(map(float, weights.split("+"))) if weights else (),
        None if restart is None else float(restart),
        None if resample is None else float(resample),
    )


def read_policy(path: Path) -> PolicyFile:
    """Read the policy file at `path`.

    Raises:
        NbenchError: the file cannot be read, or it is not a policy file.
    """
    try:
        file = PolicyFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise NbenchError(f"{path} is not a policy file: {where}: {first['msg']}; nbench tune writes them") from None
    except OSError as error:
        raise NbenchError(f"no policy at {path} ({reason_of(error)}): {_FORMS}, or name a JSON file") from None
    file.policy  # noqa: B018 - raises if the stages are not in order
    return file


def write_policy(path: Path, file: PolicyFile) -> None:
    """Write a policy file atomically.

    Raises:
        NbenchError: the folder cannot be written.
    """
    write_out(path, file.model_dump_json(indent=1) + "\n")
