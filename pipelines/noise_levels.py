"""The meaning of a scheduler's numbers: noise level per position, x0 from a prediction, the forward process."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import NbenchError, reason_of
from ..shards.schema import LatentSpace, PositionInfo

if TYPE_CHECKING:
    import torch

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "original_sample": "x0"}
_FLOWS = ("FlowMatch", "FlowMap", "LTXEulerAncestralRF")
"""Name prefixes of schedulers that only do flow matching."""
_SPACED = ("FluxPipeline", "QwenImagePipeline", "ZImagePipeline")
"""Pipelines that set evenly spaced noise levels themselves."""


def is_flow(kind: type | str, config: Mapping[str, Any]) -> bool:
    """Whether a scheduler with this class (or class name) and configuration does flow matching.

    Its latents are (1 - sigma) x0 + sigma noise, and the denoiser predicts noise - x0.
    """
    names = [kind] if isinstance(kind, str) else [base.__name__ for base in kind.__mro__]
    return any(name.startswith(_FLOWS) for name in names) or config.get("prediction_type") == "flow_prediction"


class NoiseLevels:
    """The noise levels of a run, from a scheduler whose timesteps are set; later changes to it have no effect.

    At position k, latent = signal x0 + noise eps, with eps of unit variance.

    Args:
        first: timestep of the run's first step; None: the scheduler's first.
        steps: number of steps of the run; None: all of the scheduler's from `first` on.

    Attributes:
        steps: T, the number of steps of the run.

    Raises:
        NbenchError: the scheduler makes more steps than requested.
    """

    def __init__(self, scheduler: Any, first: float | None = None, steps: int | None = None) -> None:
        self._scheduler = copy.copy(scheduler)
        self._times: list[float] = scheduler.timesteps.tolist()
        self._sigmas: list[float] | None = scheduler.sigmas.tolist() if hasattr(scheduler, "sigmas") else None
        self._name = type(scheduler).__name__
        self._flow = is_flow(type(scheduler), scheduler.config)
        self._begin = self._index_of(first)
        count = len(self._times) - self._begin
        requested = scheduler.num_inference_steps or count
        self.steps = min(steps or count, count)
        if self.steps > requested:
            raise NbenchError(
                f"{self._name} makes {self.steps} steps instead of {requested}: "
                "choose another number of steps, or a scheduler such as Euler"
            )

    def _index_of(self, timestep: float | None) -> int:
        """The index of the run's first timestep: image-to-image skips the first ones."""
        if timestep is None or timestep not in self._times:
            return 0
        begin = getattr(self._scheduler, "begin_index", None)
        if begin is not None and self._times[begin] == timestep:  # if two are equal
            return int(begin)
        return self._times.index(timestep)

    @property
    def positions(self) -> list[PositionInfo]:
        """The noise levels of all positions 0..T."""
        return [self.at(position) for position in range(self.steps + 1)]

    def at(self, position: int) -> PositionInfo:
        """The noise level of one position of 0..T.

        `sigma` is None if the scheduler has none, or no signal is left (zero terminal SNR).
        """
        if position == self.steps:
            return PositionInfo(position, None, self._last_sigma(), 1.0)
        return PositionInfo(position, self._time(position), self._sigma(position), self._input_scale(position))

    def scales(self, position: int) -> tuple[float, float]:
        """The factors of x0 and noise at a position before T.

        Raises:
            NbenchError: the scheduler has no noise levels.
        """
        signal, noise, _ = self._level(position)
        return signal, noise

    def x0(self, position: int, sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The x0 estimate, float32 and shaped like `sample`, from the latent and prediction at `position`.

        With latent = alpha x0 + sigma noise and alpha^2 + sigma^2 = 1, x0 is (latent - sigma p) / alpha if p predicts
        noise, alpha latent - sigma p if p predicts velocity (Salimans and Ho, arXiv 2202.00512), and latent - sigma p
        in flow matching. The scheduler's clipping and thresholding apply. The prediction is the guided one, without a
        variance.

        Raises:
            NbenchError: the prediction type is unknown, or noise is predicted where no signal is left.
        """
        scheduler = self._scheduler
        sample, prediction = sample.detach().float(), prediction.detach().float()
        if hasattr(scheduler, "precondition_outputs"):  # EDM, arXiv 2206.00364
            sigma = scheduler.sigmas[self._begin + position].to(sample.device)
            x0: torch.Tensor = scheduler.precondition_outputs(sample, prediction, sigma).float()
            return x0
        if self._flow:
            end = 1.0 if scheduler.config.get("invert_sigmas") else 0.0
            return sample - (self._raw_sigma(position) - end) * prediction
        kind = _PREDICTIONS.get(scheduler.config.get("prediction_type", ""))
        if kind is None:
            raise self._unknown()
        if kind == "x0":
            return self._bounded(prediction)
        signal, noise, unit = self._level(position)
        alpha, sigma, latent = signal * unit, noise * unit, sample * unit
        if kind == "v":
            return self._bounded(alpha * latent - sigma * prediction)
        if alpha == 0:
            raise NbenchError(
                f"{self._name} leaves no signal at position {position}, so predicted noise gives no x0 estimate: "
                "leave x0 out of --signals, or position 0 out of --latents"
            )
        return self._bounded((latent - sigma * prediction) / alpha)

    def _level(self, position: int) -> tuple[float, float, float]:
        """Signal and noise, and the factor that gives both unit variance (1 if variance preserving, or a flow).

        Three kinds: flow matching, 1 - s and s; variance exploding (k-diffusion: Euler), 1 and sigma; variance
        preserving (DDPM), sqrt(a) and sqrt(1 - a), whether the scheduler states a or sigma = sqrt((1 - a) / a).
        """
        scheduler = self._scheduler
        if self._sigmas is not None and not hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
            sigma = self._raw_sigma(position)
            if self._flow:
                return (sigma, 1 - sigma, 1.0) if scheduler.config.get("invert_sigmas") else (1 - sigma, sigma, 1.0)
            return 1.0, sigma, 1 / math.sqrt(sigma**2 + 1)
        if self._sigmas is not None:  # the DPM-Solver and UniPC families, including flows
            import torch

            alpha, sigma = scheduler._sigma_to_alpha_sigma_t(torch.tensor(self._raw_sigma(position)))
            return float(alpha), float(sigma), 1.0
        if hasattr(scheduler, "alphas_cumprod"):
            share = self._signal_share(self._time(position))
            return math.sqrt(share), math.sqrt(1 - share), 1.0
        raise NbenchError(f"{self._name} has no noise levels: use one such as Euler, DDIM or UniPC")

    def _time(self, position: int) -> float:
        return self._times[self._begin + position]

    def _raw_sigma(self, position: int) -> float:
        assert self._sigmas is not None
        return self._sigmas[self._begin + position]

    def _signal_share(self, timestep: float) -> float:
        """The signal's share of the variance, for schedulers that state it."""
        return float(self._scheduler.alphas_cumprod[int(timestep)])

    def _sigma(self, position: int) -> float | None:
        if self._sigmas is not None:
            return self._raw_sigma(position)
        return _ratio(self._signal_share(self._time(position))) if hasattr(self._scheduler, "alphas_cumprod") else None

    def _last_sigma(self) -> float | None:
        """Sigma of the last step's result: 0, except for runs that end early and schedules that stop short of 0."""
        index = self._begin + self.steps
        if self._sigmas is not None:
            return self._sigmas[index] if index < len(self._sigmas) else 0.0
        if index < len(self._times) and hasattr(self._scheduler, "alphas_cumprod"):
            return self._sigma(self.steps)
        if self._name.startswith("DDIM"):
            return _ratio(float(self._scheduler.final_alpha_cumprod))
        return 0.0

    def _input_scale(self, position: int) -> float:
        """The scheduler's factor on the latent before the denoiser sees it; 1 in flow matching."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return 1.0
        import torch

        scheduler, index = copy.copy(self._scheduler), self._begin + position
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = index
        return float(scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[index]))

    def _bounded(self, x0: torch.Tensor) -> torch.Tensor:
        config = self._scheduler.config
        if config.get("thresholding", False):
            thresholded: torch.Tensor = self._scheduler._threshold_sample(x0)
            return thresholded
        # schedulers with sigmas have clip_sample but do not clip
        if config.get("clip_sample", False) and self._sigmas is None:
            bound = config.get("clip_sample_range", 1.0)
            return x0.clamp(-bound, bound)
        return x0

    def _unknown(self) -> NbenchError:
        kind = self._scheduler.config.get("prediction_type")
        description = f"prediction_type {kind!r}" if kind else "no prediction_type"
        return NbenchError(f"{self._name} with {description} gives no x0 estimate in nbench: leave x0 out of --signals")


def _ratio(signal_share: float) -> float | None:
    """Sigma, noise over signal, from the signal's share of the variance; None if no signal is left."""
    return math.sqrt((1 - signal_share) / signal_share) if signal_share > 0 else None


def predicted(prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The prediction without the variance that some denoisers return in extra channels."""
    return prediction[:, : sample.shape[1]]


def run_positions(scheduler: Any) -> list[PositionInfo]:
    """The noise level of each position of a run, the finished latent included; timesteps must be set.

    Raises:
        NbenchError: it does not call the denoiser once per step.
    """
    check_order(scheduler)
    return NoiseLevels(scheduler).positions


def noise_scales(scheduler: Any) -> list[tuple[float, float]]:
    """The factors of image and noise at each position before the last; timesteps must be set.

    Raises:
        NbenchError: the scheduler has no noise levels.
    """
    levels = NoiseLevels(scheduler)
    return [levels.scales(position) for position in range(levels.steps)]


def forward_levels(
    scheduler: Mapping[str, Any], space: LatentSpace
) -> tuple[dict[int, PositionInfo], dict[int, tuple[float, float]]]:
    """The noise level, and the factors of image and noise, at every position 0..T of a data set.

    Args:
        scheduler: class and configuration, as in the spec of a build.

    Raises:
        NbenchError: diffusers has no such scheduler, it has no noise levels, or they are not those of the data set.
    """
    import diffusers

    settings = dict(scheduler)
    kind = getattr(diffusers, str(settings.pop("class", "")), None)
    if kind is None or not hasattr(kind, "set_timesteps"):
        raise NbenchError(f"diffusers has no scheduler {scheduler.get('class')}, which made this data set")
    made = kind.from_config(settings)
    for pipeline in ("", _SPACED[0]):
        set_timesteps(made, pipeline, space.steps, space.latent_shape[1:])
        levels = {at.position: at for at in run_positions(made)}
        if all(_same_level(levels[at.position], at) for at in space.positions):
            scales = dict(enumerate([*noise_scales(made), (1.0, 0.0)]))
            return levels, scales
    raise NbenchError("the noise levels of this data set are not its scheduler's: use --process reverse")


def _same_level(one: PositionInfo, other: PositionInfo) -> bool:
    return one.sigma == other.sigma or (
        one.sigma is not None and other.sigma is not None and math.isclose(one.sigma, other.sigma, rel_tol=1e-4)
    )


def check_order(scheduler: Any) -> None:
    """Refuse a scheduler, or scheduler class, that does not call the denoiser once per step.

    Raises:
        NbenchError: it does not.
    """
    if getattr(scheduler, "order", 1) != 1:
        kind = scheduler if isinstance(scheduler, type) else type(scheduler)
        raise NbenchError(
            f"{kind.__name__} does not call the denoiser once per step: use a first-order scheduler such as Euler"
        )


def set_timesteps(scheduler: Any, pipeline: str, steps: int, latent: tuple[int, int]) -> None:
    """Set the timesteps as the pipeline class `pipeline` does, for `steps` steps and `latent` (height, width).

    Raises:
        NbenchError: the scheduler cannot run this number of steps.
    """
    arguments: dict[str, Any] = {"num_inference_steps": steps}
    if pipeline in _SPACED and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        import numpy as np

        arguments = {"sigmas": np.linspace(1.0, 1 / steps, steps).tolist()}
    config = scheduler.config
    if config.get("use_dynamic_shifting"):
        tokens = (latent[0] // 2) * (latent[1] // 2)
        fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        # FLUX.1 shifts its noise levels with the number of tokens
        arguments["mu"] = low + (high - low) * (tokens - fewest) / (most - fewest)
    try:
        scheduler.set_timesteps(**arguments)
    except (TypeError, ValueError) as error:
        raise NbenchError(
            f"{type(scheduler).__name__} does not run {steps} steps ({reason_of(error)}): check --steps"
        ) from None
