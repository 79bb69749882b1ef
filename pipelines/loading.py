"""Speed and memory options of a loaded pipeline: device, offloading, compilation, attention, quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import NbenchError, reason_of
from .denoisers import DENOISERS, denoisers
from .options import PipelineOptions, check_quantizer


def quantization(backend: str, index: Mapping[str, Any], dtype: str) -> Any:
    """diffusers' configuration to load the denoiser of a model_index.json in few bits: NF4, or 8 bits a weight.

    Raises:
        NbenchError: no such backend, or its package is not installed.
    """
    import diffusers
    import torch

    check_quantizer(backend)
    try:
        if backend == "torchao":
            from torchao.quantization import Int8WeightOnlyConfig

            settings = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
        elif backend == "quanto":
            settings = diffusers.QuantoConfig(weights_dtype="int8")
        elif backend == "bitsandbytes_8bit":
            settings = diffusers.BitsAndBytesConfig(load_in_8bit=True)
        else:
            settings = diffusers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
            )
    except (ImportError, ValueError) as error:
        raise NbenchError(f"--quantize {backend} does not work here ({reason_of(error)}): update its package") from None
    return diffusers.PipelineQuantizationConfig(
        quant_mapping={name: settings for name in DENOISERS if index.get(name, [None])[0]}
    )


def applied(pipe: Any, options: PipelineOptions, attention: str | None, device: str) -> Any:
    """`pipe` on `device` with what the options ask for.

    Raises:
        NbenchError: something of it is not to be had with this pipeline or on this machine.
    """
    if options.vae_slicing or options.vae_tiling:
        _divide_vae(pipe, options)
    if attention is not None:
        try:
            for model in denoisers(pipe):
                model.set_attention_backend(attention)
        except (ValueError, ImportError, RuntimeError, AttributeError) as error:
            raise NbenchError(
                f"attention {attention} is not to be had ({reason_of(error)}): leave --attention out"
            ) from None
    try:
        if options.offload is None:
            pipe = pipe.to(device)
        else:
            _offload(pipe, options.offload, device)
    except RuntimeError as error:  # of torch and of drivers; a GPU without memory among them
        raise NbenchError(
            f"the pipeline cannot be placed on {device} ({reason_of(error)}): use another, --offload or --quantize"
        ) from error
    if options.compile:
        for model in denoisers(pipe):
            _compile(model)
    return pipe


def _compile(model: Any) -> None:
    import torch._dynamo.config

    # signals use forward hooks: without this guard, a layer compiled without a hook would skip one added later
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    if getattr(model, "_repeated_blocks", None):
        model.compile_repeated_blocks()
    else:
        model.compile()


def _offload(pipe: Any, how: str, device: str) -> None:
    import torch

    if torch.device(device).type == "cpu":
        raise NbenchError(f"--offload {how} keeps weights off a GPU, and there is none here: leave it out")
    if how == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif how == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(torch.device(device), offload_type="leaf_level", use_stream=True)


def _divide_vae(pipe: Any, options: PipelineOptions) -> None:
    for enabled, name in ((options.vae_slicing, "slicing"), (options.vae_tiling, "tiling")):
        enable = getattr(pipe.vae, f"enable_{name}", None)
        if not enabled:
            continue
        if enable is None:
            raise NbenchError(f"{type(pipe.vae).__name__} offers no {name}: leave --vae-{name} out")
        enable()
