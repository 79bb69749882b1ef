"""Pipelines whose weights are one file in the layout of their authors (`from_single_file` of diffusers)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NbenchError, reason_of
from .aliases import PipelineEntry
from .sizes import read_json

if TYPE_CHECKING:
    import torch

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_LEFT_OUT = ("safety_checker", "image_encoder")
_CONFIGURATION = ("*.json", "*.txt", "*.model")


def check_single_file(file: Path) -> None:
    """Refuse what is not opened.

    Raises:
        NbenchError: it is a pickle, quantized, or no safetensors file at all.
    """
    if file.suffix == ".safetensors":
        return
    if file.suffix in _PICKLED:
        raise NbenchError(f"{file} is a pickle, which can run code and is not opened: convert it to safetensors")
    if file.suffix == ".gguf":
        raise NbenchError(
            f"{file} is GGUF, the quantized denoiser alone, and is not opened: use safetensors, with --quantize"
        )
    raise NbenchError(f"{file} is a file of another kind: give a folder, a Hub id or a safetensors checkpoint")


def configuration_of(file: Path, stated: str | None) -> Path:
    """The folder with the configuration of a checkpoint and its tokenizers: `stated` (folder or Hub id), one beside it
    (its own folder, or NAME for NAME.safetensors), else what diffusers takes for the layout of its tensors.

    Raises:
        NbenchError: there is none, or it cannot be fetched.
    """
    if stated is None:
        beside = next((folder for folder in (file.with_suffix(""), file.parent) if _configures(folder)), None)
        if beside is not None:
            return beside
    elif Path(stated).is_dir():
        if not _configures(Path(stated)):
            raise NbenchError(
                f"--pipeline-config {stated} is no folder of a diffusers pipeline: it has no model_index.json"
            )
        return Path(stated)
    source = stated or _usual_configuration(file)
    from huggingface_hub import snapshot_download

    patterns = [f"{folder}{pattern}" for pattern in _CONFIGURATION for folder in ("", "*/")]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except Exception as error:  # the Hub's client raises a dozen unrelated types
        raise NbenchError(
            f"the configuration of {file.name} is neither beside it nor can {source} be fetched from the Hub "
            f"({reason_of(error)}): give a folder with its model_index.json by --pipeline-config"
        ) from None


def open_single_file(entry: PipelineEntry, kind: Any, index: Mapping[str, Any], dtype: str, parts: Any) -> Any:
    """The pipeline of a checkpoint, of class `kind`, with the model_index.json `index` and the stated `parts`.

    Parts that the file lacks are read from the configuration's folder, if their weights are there.

    Raises:
        NbenchError: an option that only folders have, or tensors are missing.
    """
    import diffusers
    import torch

    if not hasattr(kind, "from_single_file"):
        raise NbenchError(f"{kind.__name__} does not open single files")
    for option, value in (("--variant", entry.variant), ("--quantize", entry.quantize)):
        if value is not None:
            raise NbenchError(f"{option} is for folders of weights")
    assert entry.checkpoint is not None
    file, where = str(entry.checkpoint), {"config": entry.source, "local_files_only": True}
    if entry.vae_dtype:
        vae, in_dtype = getattr(diffusers, index["vae"][1]), getattr(torch, entry.vae_dtype)
        parts = {**parts, "vae": vae.from_single_file(file, subfolder="vae", torch_dtype=in_dtype, **where)}
    tensors = _tensors_of(entry.checkpoint)
    _check_prediction(entry, tensors)
    parts = _encoders_beside(entry, index, dtype, tensors) | parts
    pipe = kind.from_single_file(file, torch_dtype=getattr(torch, dtype), **where, **parts)
    for name, part in pipe.components.items():
        tensors = part.state_dict() if isinstance(part, torch.nn.Module) else {}
        absent = [key for key, tensor in tensors.items() if tensor.is_meta]
        if absent:
            raise NbenchError(f"it lacks {len(absent)} tensors of its {name} ({absent[0]}, ...)")
    return pipe


def _check_prediction(entry: PipelineEntry, tensors: Collection[str]) -> None:
    """Refuse a scheduler for predicted noise where the file is marked, as is usual, as predicting velocity: the images
    would be noise. `from_single_file` itself takes what the configuration says.
    """
    config = read_json(Path(entry.source) / "scheduler" / "scheduler_config.json")
    if "v_pred" in tensors and config.get("prediction_type") != "v_prediction":
        zero = ' and "rescale_betas_zero_snr": true' if "ztsnr" in tensors else ""
        raise NbenchError(
            f"it predicts velocity (v_pred), and the scheduler of its configuration does not say so: write "
            f'"prediction_type": "v_prediction"{zero} into scheduler/scheduler_config.json of a folder, named by '
            "--pipeline-config"
        )


def _encoders_beside(
    entry: PipelineEntry, index: Mapping[str, Any], dtype: str, tensors: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Text encoders that the checkpoint lacks, as many of large models do, from the folder of its configuration."""
    import torch
    import transformers
    from diffusers.loaders.single_file_utils import is_clip_model_in_single_file, is_t5_in_single_file

    parts: dict[str, Any] = {}
    for name, part in index.items():
        library, kind = part if isinstance(part, list) else (None, "")
        model = getattr(transformers, kind or "", None) if library == "transformers" else None
        if not (isinstance(model, type) and issubclass(model, transformers.PreTrainedModel)) or name in _LEFT_OUT:
            continue
        if is_clip_model_in_single_file(model, tensors) or (kind.startswith("T5") and is_t5_in_single_file(tensors)):
            continue
        folder = Path(entry.source) / name
        if not any(folder.glob("*.safetensors")):
            raise NbenchError(
                f"neither it nor the folder of its configuration has the {name}, {kind}: give one that has by "
                "--pipeline-config"
            )
        parts[name] = getattr(transformers, kind).from_pretrained(folder, dtype=getattr(torch, dtype))
    return parts


def _configures(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _usual_configuration(file: Path) -> str:
    """The Hub id whose configuration diffusers takes for the names and shapes of the tensors in `file`."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return str(fetch_diffusers_config(_tensors_of(file))["pretrained_model_name_or_path"])


def _tensors_of(file: Path) -> dict[str, torch.Tensor]:
    """Names and shapes of a file's tensors, which are not read."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return {
                name: torch.empty(tensors.get_slice(name).get_shape(), device="meta")
                for name in tensors.keys()  # noqa: SIM118  # it is no mapping
            }
    except (OSError, SafetensorError, RuntimeError) as error:
        raise NbenchError(f"{file} cannot be read ({reason_of(error)}): get the file again") from None
