"""Schedulers by name, and how one takes the place of a pipeline's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ..errors import NbenchError, reason_of
from .noise_levels import check_order, is_flow

_ENDINGS = ("", "Scheduler", "DiscreteScheduler", "MultistepScheduler")


def scheduler_class(name: str) -> Any:
    """The scheduler of diffusers called `name`: "EulerDiscreteScheduler", "EulerDiscrete" or "Euler".

    Raises:
        NbenchError: there is none, it needs a package that is not installed, or it calls the denoiser twice a step.
    """
    import diffusers

    known = {each.lower(): each for each in dir(diffusers) if each.endswith("Scheduler")}
    found = next((known[key] for end in _ENDINGS if (key := f"{name}{end}".lower()) in known), None)
    if found is None:
        short = {key.removesuffix(end.lower()): key for end in _ENDINGS for key in known if key.endswith(end.lower())}
        near = get_close_matches(name.lower(), short, 1)
        hint = f"did you mean {known[short[near[0]]]}?" if near else "give a class of diffusers"
        raise NbenchError(f"no scheduler {name!r}: {hint}")
    kind = getattr(diffusers, found)
    try:
        check_order(kind)
    except ImportError as error:  # diffusers puts a dummy in the place of a class that lacks a package
        raise NbenchError(f"scheduler {found} cannot be used ({reason_of(error)})") from None
    return kind


def check_scheduler(name: str, stated: Mapping[str, Any]) -> Any:
    """The class `name`, if it can take the place of the scheduler whose file says `stated`.

    Raises:
        NbenchError: no such class, or it cannot do what the denoiser was trained for.
    """
    kind = scheduler_class(name)
    _config(kind, stated.get("_class_name", ""), stated)
    return kind


def swapped(pipe: Any, name: str) -> Any:
    """A scheduler of class `name` with the settings of the one that `pipe` has, so far as it knows them."""
    kind, stock = scheduler_class(name), pipe.scheduler
    return kind.from_config(_config(kind, type(stock).__name__, stock.config))


def _config(kind: Any, stock: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` in the words of `kind`. A denoiser trained for flow matching makes no sense in another process."""
    flows, matches = is_flow(stock, config), is_flow(kind, {})
    if flows and not matches:
        if "use_flow_sigmas" not in inspect.signature(kind.__init__).parameters:
            raise NbenchError(
                f"{kind.__name__} knows no flow matching, for which this denoiser is trained: "
                "use FlowMatchEuler, DPMSolver or UniPC"
            )
        shift = config.get("shift", config.get("flow_shift", 1.0))
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        return {**config, **flow}
    if matches and not flows:
        raise NbenchError(
            f"{kind.__name__} is for flow matching, for which this denoiser is not trained: use Euler, DDIM or UniPC"
        )
    return {**config, "shift": config["flow_shift"]} if matches and "flow_shift" in config else config
