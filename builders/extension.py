"""Extends a data set: adds prompts and candidates in new shards and changes no existing one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import NbenchError
from ..jobs.run import check_alone
from ..shards.dataset import DatasetFolder
from ..shards.fingerprint import fingerprint
from ..shards.schema import Block, DatasetInfo
from .candidates import Plan
from .process import process_of
from .prompts.choose import PromptSet


def taken_up(plan: Plan, chosen: PromptSet, folder: DatasetFolder) -> Plan:
    """`plan` with the spec of the data set in `folder`, which is extended first where the plan says so.

    The spec of an extended data set is that of one built at once, plus the fingerprint before the extension.

    Raises:
        NbenchError: the data set is to be extended, but is not the beginning of what is planned.
    """
    info = folder.info
    origin = {name: info.spec[name] for name in ("extended_from",) if name in info.spec}
    if plan.config.extend and plan.spec | origin != info.spec:
        origin = {"extended_from": info.fingerprint}
        _check_beginning(plan, chosen, info, folder)
        check_alone(folder.store)
        folder.extend(extended(info, plan.spec | origin))
    return replace(plan, spec=plan.spec | origin)


def extended(info: DatasetInfo, spec: dict[str, Any]) -> DatasetInfo:
    """The record of a data set with `spec`, which starts with the rows of `info`."""
    prompts, candidates = spec["prompts"]["count"], spec["candidates"]
    added = (
        Block(fingerprint(spec), (0, info.n_prompts), (info.candidates, candidates)),
        Block(fingerprint(spec), (info.n_prompts, prompts), (0, candidates)),
    )
    grown = replace(
        info,
        fingerprint=fingerprint(spec),
        spec=spec,
        candidates=candidates,
        n_prompts=prompts,
        rows=prompts * candidates,
        blocks=(*info.all_blocks, *(block for block in added if block.rows)),
    )
    return replace(grown, shards=(*info.shards, *(None,) * (grown.n_shards - len(info.shards))))


def _check_beginning(plan: Plan, chosen: PromptSet, info: DatasetInfo, folder: DatasetFolder) -> None:
    """Check that the plan, cut to the existing prompts and candidates, is that of the existing data set."""
    if plan.config.n_candidates < info.candidates or len(plan.prompts) < info.n_prompts:
        raise NbenchError(
            f"{folder.place} has {info.n_prompts} prompts x {info.candidates} candidates, more than the "
            f"{len(plan.prompts)} x {plan.config.n_candidates} asked for: raise --limit and --candidates"
        )
    fewer = replace(chosen, prompts=chosen.prompts[: info.n_prompts])
    spec = process_of(replace(plan.config, candidates=info.candidates)).plan(fewer, lambda *of: plan.entry).spec
    old = {name: value for name, value in info.spec.items() if name != "extended_from"}
    if spec["prompts"] != old.get("prompts"):
        raise NbenchError(
            f"the prompts of {folder.place} are not the first {info.n_prompts} asked for: add prompts at the end only"
        )
    folder.check_same(spec, old)
