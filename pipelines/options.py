"""The options of a pipeline, checked against its class before weights are loaded."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..errors import NbenchError, check_range
from ..options import panel
from .lora import check_loras, find_loras, parse_lora
from .quiet import quieten_diffusers

if TYPE_CHECKING:
    from .aliases import PipelineEntry

BLANK = " "
_MOST_PIXELS = 65_536
_CALLED = ("height", "width", "negative_prompt", "max_sequence_length", "eta")
# arguments that nbench sets, and what determines them
_OURS = {
    "prompt": "the prompt asked for",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "generator": "--seed",
    "latents": "--seed",
    "num_images_per_prompt": "the number of candidates",
    "output_type": "nothing",
    "return_dict": "nothing",
}

_TEXTS = ("negative_prompt", *(f"{kind}prompt_{i}" for kind in ("", "negative_") for i in (2, 3, 4)))
_TUPLE = re.compile(r"(typing\.)?(Optional\[)?tuple\[", re.IGNORECASE)

QUANTIZERS = {
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "torchao": "torchao",
    "quanto": "optimum-quanto",
}
"""The package that each diffusers backend needs."""


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse arguments written as key=value; a value that is not JSON is taken as text.

    Raises:
        NbenchError: a missing or repeated key.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise NbenchError(f"--pipeline-arg {pair!r} is not key=value: write for example clip_skip=1")
        if key in arguments:
            raise NbenchError(f"--pipeline-arg {key} is given twice: give it once")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


_option, _speed = panel("Pipeline"), panel("Pipeline: speed and memory")


@dataclass(frozen=True)
class PipelineOptions:
    """Settings that override a pipeline's defaults; None keeps the default.

    `arguments` are further arguments of its `__call__`. `compile`, `offload` and the VAE options change only speed and
    memory; all others change the output.
    """

    revision: Annotated[str | None, _option("Branch, tag or commit of a Hub id.")] = None
    variant: Annotated[
        str | None, _option("Weight files to load, as fp16 for model.fp16.safetensors. [default: those without]")
    ] = None
    config: Annotated[
        str | None,
        _option(
            "Configuration of a single-file checkpoint: FOLDER or Hub id. [default: beside it, or by its layout]",
            flag="--pipeline-config",
        ),
    ] = None
    scheduler: Annotated[
        str | None, _option("First-order scheduler of diffusers: Euler, DDIM, UniPC. [default: the pipeline's]")
    ] = None
    eta: Annotated[float | None, _option("Noise added by DDIM: 0 for none, 1 for as much as DDPM.")] = None
    guidance: Annotated[float | None, _option("Guidance scale. [default: the pipeline's]")] = None
    height: Annotated[int | None, _option("Image height in pixels. [default: the pipeline's]")] = None
    width: Annotated[int | None, _option("Image width in pixels. [default: the pipeline's]")] = None
    negative_prompt: Annotated[str | None, _option("Text that guidance steers away from.")] = None
    max_sequence_length: Annotated[
        int | None, _option("Longest prompt, in tokens; the rest is cut. [default: the pipeline's]")
    ] = None
    arguments: Annotated[
        dict[str, Any],
        _option(
            "Further argument of the pipeline's call, key=value with the value in JSON; repeatable.",
            flag="--pipeline-arg",
            text=list[str] | None,
            parse=parse_arguments,
        ),
    ] = field(default_factory=dict)
    lora: Annotated[
        tuple[str, ...],
        _option("LoRA to apply: FOLDER, FILE.safetensors or a Hub id, with :WEIGHT if it is not 1; repeatable."),
    ] = ()
    quantize: Annotated[
        str | None,
        _option("Quantize the denoiser with bitsandbytes_4bit, bitsandbytes_8bit, torchao or quanto."),
    ] = None
    attention: Annotated[str | None, _option("Attention backend of diffusers: native, flash, sage.")] = None
    compile: Annotated[bool, _speed("Compile the denoiser's repeated blocks with torch.compile.")] = False
    offload: Annotated[Literal["model", "sequential", "group"] | None, _speed("Keep unused weights off the GPU.")] = (
        None
    )
    vae_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        _option("Weights of the VAE; float32 where it overflows in float16. [default: --dtype]"),
    ] = None
    vae_slicing: Annotated[bool, _speed("Decode images one at a time.")] = False
    vae_tiling: Annotated[bool, _speed("Decode large images in tiles.")] = False

    def __post_init__(self) -> None:
        for name in ("height", "width", "max_sequence_length"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), high=_MOST_PIXELS)
        for text in self.lora:
            parse_lora(text)

    @property
    def call_kwargs(self) -> dict[str, Any]:
        """The options that are arguments of the pipeline's `__call__`, without the guidance."""
        named = {name: getattr(self, name) for name in _CALLED}
        return {**{name: value for name, value in named.items() if value is not None}, **self.arguments}


def with_options(entry: PipelineEntry, options: PipelineOptions) -> PipelineEntry:
    """`entry` with `options` applied; its `source` must be a folder.

    Raises:
        NbenchError: the pipeline does not accept an option.
    """
    from .schedulers import check_scheduler, scheduler_class
    from .sizes import check_sides, read_json, side_multiple

    overrides, folder = options.call_kwargs, Path(entry.source)
    for name in sorted(overrides.keys() & _OURS.keys()):
        raise NbenchError(f"--pipeline-arg {name} cannot be set: {_OURS[name]} determines it")
    named = {**overrides, **({} if options.guidance is None else {"guidance_scale": options.guidance})}
    if kind := pipeline_class(read_json(folder / "model_index.json")):
        _check_arguments(kind, named)
    check_loras(kind, options.lora)
    called = {**entry.call_kwargs, **overrides}
    check_sides(entry.name, called, side_multiple(folder, kind, called))
    if options.quantize is not None:
        check_quantizer(options.quantize)
    stated = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = entry.scheduler
    if options.scheduler is not None:
        scheduler = check_scheduler(options.scheduler, stated).__name__
    scheduler_name = scheduler or stated.get("_class_name", "")
    if options.eta is not None and "eta" not in inspect.signature(scheduler_class(scheduler_name).step).parameters:
        raise NbenchError(f"{scheduler_name} takes no eta: leave --eta out, or use --scheduler DDIM")
    return replace(
        entry,
        scheduler=scheduler,
        guidance=entry.guidance if options.guidance is None else options.guidance,
        call_kwargs=called,
        quantize=options.quantize or entry.quantize,
        attention=options.attention or entry.attention,
        vae_dtype=options.vae_dtype or entry.vae_dtype,
        variant=options.variant or entry.variant,
        loras=find_loras(options.lora),
    )


def pipeline_class(index: dict[str, Any]) -> Any:
    """The diffusers class that a model_index.json names; None if diffusers has no such class.

    Raises:
        NbenchError: the class needs a package that is not installed.
    """
    quieten_diffusers()
    import diffusers
    from diffusers.utils.import_utils import BACKENDS_MAPPING, DummyObject

    name = index.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if isinstance(kind, DummyObject):  # what diffusers puts in the place of a class that lacks a package
        missing = [package for package in kind._backends if not BACKENDS_MAPPING[package][0]()]
        raise NbenchError(f"{name} needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}")
    return kind


def as_called(pipe: Any, arguments: dict[str, Any], count: int) -> dict[str, Any]:
    """`arguments` as `pipe` takes them for `count` prompts, without those that it does not take.

    If guidance is neither embedded in the denoiser nor called `guidance_scale` (Qwen-Image; FLUX without embedded
    guidance), it is `true_cfg_scale`, which needs a negative prompt: by default a blank one. A prompt beside the main
    one (negative, or for the second text encoder) becomes a list, as does a list of one, since some pipelines do not
    repeat a single one, and a JSON list a tuple where the pipeline wants one (sizes of SDXL).
    """
    taken, adapted = inspect.signature(pipe.__call__).parameters, dict(arguments)
    embedded = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "guidance_embeds", False)
    if "guidance_scale" in adapted and "true_cfg_scale" in taken and not embedded:
        adapted.setdefault("true_cfg_scale", adapted.pop("guidance_scale"))
        if adapted["true_cfg_scale"] > 1:
            adapted.setdefault("negative_prompt", BLANK)
    for name, value in adapted.items():
        texts = [value] if isinstance(value, str) else value
        if name in _TEXTS and isinstance(texts, list) and len(texts) == 1:
            adapted[name] = texts * count
        elif isinstance(value, list) and name in taken and _TUPLE.match(str(taken[name].annotation)):
            adapted[name] = tuple(value)
    return {name: value for name, value in adapted.items() if name in taken}


def check_quantizer(backend: str) -> None:
    """Refuse an unknown backend, or one whose package is missing.

    Raises:
        NbenchError: unknown backend, or its package is not installed.
    """
    package = QUANTIZERS.get(backend)
    if package is None:
        raise NbenchError(f"no quantization {backend!r}: there are {', '.join(QUANTIZERS)}")
    module = package.replace("-", ".")
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent package is missing
        spec = None
    if spec is None:
        raise NbenchError(f"--quantize {backend} needs the package {package}: pip install {package}")


def _check_arguments(kind: Any, arguments: dict[str, Any]) -> None:
    taken = inspect.signature(kind.__call__).parameters
    for name in arguments:
        if name in taken or (name == "guidance_scale" and "true_cfg_scale" in taken):
            continue
        near = get_close_matches(name, taken, 1)
        hint = f"did you mean {near[0]}?" if near else "leave it out"
        raise NbenchError(f"{kind.__name__} takes no {name}: {hint}")
