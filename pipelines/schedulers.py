"""Schedulers by name, and replacing a pipeline's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ..errors import NbenchError, reason_of
from .noise_levels import check_order, is_flow

_ENDINGS = ("", "Scheduler", "DiscreteScheduler", "MultistepScheduler")


def scheduler_class(name: str) -> Any:
    """The diffusers scheduler class `name`: "EulerDiscreteScheduler", "EulerDiscrete" or "Euler".

    Raises:
        NbenchError: no such class, it needs a missing package, or it calls the denoiser twice per step.
    """
    import diffusers

    names = {each.lower(): each for each in dir(diffusers) if each.endswith("Scheduler")}
    full_name = next((names[key] for end in _ENDINGS if (key := f"{name}{end}".lower()) in names), None)
    if full_name is None:
        short = {key.removesuffix(end.lower()): key for end in _ENDINGS for key in names if key.endswith(end.lower())}
        near = get_close_matches(name.lower(), short, 1)
        hint = f"did you mean {names[short[near[0]]]}?" if near else "name a diffusers class"
        raise NbenchError(f"no scheduler {name!r}: {hint}")
    kind = getattr(diffusers, full_name)
    try:
        check_order(kind)
        if not hasattr(kind, "step"):
            raise NbenchError(f"{full_name} has no method step, which pipelines call: use Euler, DDIM or UniPC")
    except ImportError as error:  # diffusers has a dummy for a class whose package is missing
        raise NbenchError(f"scheduler {full_name} cannot be used ({reason_of(error)})") from None
    return kind


def check_scheduler(name: str, stated: Mapping[str, Any]) -> Any:
    """The class `name`, if it can replace the scheduler with the configuration `stated`.

    Raises:
        NbenchError: no such class, the denoiser was not trained for it, or it does not take the settings.
    """
    kind = scheduler_class(name)
    _configured(kind, stated.get("_class_name", ""), stated)
    return kind


def swapped(pipe: Any, name: str) -> Any:
    """A scheduler of class `name` with those settings of the pipeline's own that it supports."""
    kind, stock = scheduler_class(name), pipe.scheduler
    return _configured(kind, type(stock).__name__, stock.config)


def _configured(kind: Any, stock: str, config: Mapping[str, Any]) -> Any:
    settings = _config(kind, stock, config)
    try:
        return kind.from_config(settings)
    except Exception as error:  # a constructor checks its settings as it likes
        raise NbenchError(
            f"{kind.__name__} cannot take the place of {stock or 'the stock scheduler'} ({reason_of(error)}): "
            "use one such as Euler, DDIM or UniPC"
        ) from None


def _config(kind: Any, stock: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` in terms of `kind`. A denoiser trained for flow matching needs a flow-matching scheduler."""
    flows, matches = is_flow(stock, config), is_flow(kind, {})
    if flows and not matches:
        if "use_flow_sigmas" not in inspect.signature(kind.__init__).parameters:
            raise NbenchError(
                f"{kind.__name__} does not support flow matching, for which this denoiser is trained: "
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
