"""The positions of a run, from a scheduler's configuration file and without a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import NbenchError, reason_of
from ...pipelines.noise_levels import run_positions
from ...shards.schema import PositionInfo

EULER_SDXL = "euler-sdxl"
UNSCALED = "none"
_SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
"""The scheduler of stabilityai/stable-diffusion-xl-base-1.0; all other values are the defaults of its class."""
_FILE = "scheduler_config.json"


def schedule(name: str, steps: int) -> tuple[dict[str, Any] | None, list[PositionInfo]]:
    """The scheduler's class and configuration, for a spec, and the positions 0..`steps` of its run.

    Args:
        name: "euler-sdxl"; a diffusers scheduler's folder, or that of a pipeline; or "none": no configuration, no
            timesteps, no sigma but that of the finished latent, and every input scale 1.

    Raises:
        NbenchError: no such folder, no scheduler of diffusers, or one that does not run `steps` steps.
    """
    if name == UNSCALED:
        unknown = [PositionInfo(position, None, None, 1.0) for position in range(steps)]
        return None, [*unknown, PositionInfo(steps, None, 0.0, 1.0)]
    config = _SDXL if name == EULER_SDXL else _read(Path(name))
    stated = {"class": config["_class_name"]} | {key: value for key, value in config.items() if key[:1] != "_"}
    return stated, _positions(name, config, steps)


def _read(folder: Path) -> dict[str, Any]:
    path = next((path for path in (folder / _FILE, folder / "scheduler" / _FILE) if path.is_file()), None)
    if path is None:
        raise NbenchError(
            f"no scheduler {str(folder)!r}: give a folder with {_FILE}, {EULER_SDXL}, or {UNSCALED} to undo no scale"
        )
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise NbenchError(f"{path} is not the configuration of a scheduler: it needs to be JSON with _class_name")
    return config


def _positions(name: str, config: dict[str, Any], steps: int) -> list[PositionInfo]:
    import diffusers

    diffusers.utils.logging.set_verbosity_error()  # of unknown keys
    kind: Any = getattr(diffusers, config["_class_name"], None)
    is_scheduler = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not is_scheduler:
        raise NbenchError(f"scheduler {name}: diffusers has no {config['_class_name']}: update it, or fix {_FILE}")
    try:
        scheduler = kind.from_config(config)
        scheduler.set_timesteps(steps)
        positions = run_positions(scheduler)
    except NbenchError:
        raise
    except Exception as error:  # each scheduler class refuses a configuration in its own way
        raise NbenchError(
            f"scheduler {name} does not run {steps} steps ({reason_of(error)}): check it and --steps"
        ) from None
    if len(positions) != steps + 1 or len({place.timestep for place in positions}) != steps + 1:
        raise NbenchError(f"scheduler {name} does not run {steps} steps of different timesteps: check it and --steps")
    return positions
