"""The configurations of `nbench import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ...errors import MOST_STEPS, NbenchError, check_range
from ...options import Argument, Option, Place, panel
from ...shards.positions import parse_positions
from ...shards.storage import is_same

_files, _data_set = panel("Files"), panel("Data set")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of every import. `skip_bad` stores a candidate with bad files as a failed row.

    Raises:
        NbenchError: a value out of range.
    """

    folder: Annotated[Path, Argument("Folder with the files.")]
    out: Annotated[Place, Option("Output folder or URL.")]
    kind: Annotated[Literal["genai-bench", "ncc"], Option("A bench to evaluate on, or a data set to train on.")] = (
        "genai-bench"
    )
    positions: Annotated[str, _data_set("Positions to store: all, 20,30 or 0:50:5.")] = "all"
    rows_per_shard: Annotated[int | None, _data_set("Trajectories per shard. [default: by their size]")] = None
    format: Annotated[Literal["parquet", "webdataset"], _data_set("Shard format.")] = "parquet"
    latent_dtype: Annotated[
        Literal["float16", "float32", "int8"], _data_set("Latent storage dtype; int8 adds one scale per channel.")
    ] = "float16"
    skip_bad: Annotated[bool, Option("Store a candidate with bad files as a failed row, and continue.")] = False
    fresh: Annotated[bool, Option("Start over, or resume an interrupted import.", flag="--fresh/--resume")] = False

    def __post_init__(self) -> None:
        check_range("--steps", self.n_steps, high=MOST_STEPS)
        check_range("--rows-per-shard", self.rows_per_shard)
        if is_same(Path(self.out), self.folder):
            raise NbenchError(f"--out {self.out} is the folder of the files to import: give another")
        if self.n_steps is not None:
            parse_positions(self.positions, self.n_steps)  # refuses positions beyond the run

    @property
    def n_steps(self) -> int | None:
        """Denoising steps T of the runs; None if the files state them."""
        return None


@dataclass(frozen=True)
class ImportConfig(ImportOptions):
    """Options of an import of NoisyCLIP's files; see `noisyclip_layout.scan` and `schedule` for `pattern`, `scheduler`.

    Raises:
        NbenchError: a value out of range.
    """

    folder: Annotated[Path, Argument("Folder with a .pt file and a PNG per candidate.")]
    out: Annotated[Place, Option("Output folder or URL.")]
    prompts: Annotated[Path, _files("Prompt file; its ids are those in the file names.")]
    pattern: Annotated[
        str | None,
        _files(
            "Regular expression for file names without .pt, with the groups prompt and candidate. "
            "[default: matches 12_3, prompt_12_seed_3, 00012-3, 12/3]"
        ),
    ] = None
    scheduler: Annotated[
        str,
        _files("Scheduler whose input scaling is undone: euler-sdxl, the folder of a diffusers scheduler, or none."),
    ] = "euler-sdxl"
    steps: Annotated[int, _files("Denoising steps T of the runs.")] = 50

    @property
    def n_steps(self) -> int:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class EngineConfig(ImportOptions):
    """Options of an import of answers that an engine gave and a user saved; see `engine_files`."""

    folder: Annotated[Path, Argument("Folder with saved answers: .msgpack, .json or .pt.")]
    prompts: Annotated[
        Path | None, _files("Prompt file with the ids and tags of the answers' prompts. [default: prompts by number]")
    ] = None
    steps: Annotated[int | None, _files("Denoising steps T of the runs. [default: as the files state]")] = None

    @property
    def n_steps(self) -> int | None:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class GenericConfig(ImportOptions):
    """Options of an import of .pt, .npz or .safetensors files by a mapping file; see `mapping`."""

    folder: Annotated[Path, Argument("Folder with the files, one per candidate.")]
    map: Annotated[Path, _files("YAML file that says where latents, positions and images are.")]
    prompts: Annotated[Path, _files("Prompt file; its ids are those in the file names.")]
