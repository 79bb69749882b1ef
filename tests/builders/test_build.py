"""Whole builds with the embedded pipeline: contents, resume, refusals, memory."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.jobs.claims import Claims
from nbench.jobs.store import LocalStore
from nbench.pipelines.candidate_noise import candidate_noise
from nbench.pipelines.find import resolve_pipeline
from nbench.pipelines.options import PipelineOptions
from nbench.shards.dataset import read_info
from nbench.shards.reader import open_bench
from nbench.shards.seeds import candidate_seed

from ..forked import run_program
from ..tiny_pipelines import save_sd15
from .conftest import DIES, Hooked

QUICK = BuildConfig("genai-bench", limit=3, candidates=2, steps=4, batch_size=4, rows_per_shard=3, references=())


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bench, built once."""
    out = tmp_path_factory.mktemp("quick") / "bench"
    report = build(replace(QUICK, out=out), progress=False)
    assert (report.rows, report.built, report.failed) == (6, 6, 0)
    return out


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def latents(folder: Path) -> np.ndarray:
    """All of a bench, [rows, positions, C, H, W]."""
    bench = open_bench(folder)
    batches = list(bench.batches(bench.info.stored))
    return np.concatenate([np.stack([batch.latents[k] for k in bench.info.stored], 1) for batch in batches])


def test_a_stock_run_from_the_stored_seed_gives_the_candidate(quick: Path, world: Any) -> None:
    entry = resolve_pipeline("shapes")
    batch = next(open_bench(quick).batches([0, 4], images=True))
    for row in (0, 2):
        assert batch.seeds[row] == candidate_seed(0, batch.prompt_ids[row], batch.candidates[row])
        arguments = {"num_inference_steps": 4, "guidance_scale": entry.guidance, **entry.call_kwargs}
        expected = [
            world(
                batch.prompts[row],
                generator=torch.Generator().manual_seed(batch.seeds[row]),
                output_type=output,
                **arguments,
            ).images[0]
            for output in ("latent", "np")
        ]
        noise = candidate_noise(batch.seeds[row], (4, 16, 16))[0]
        assert torch.equal(torch.from_numpy(batch.latents[0][row]), noise.half())
        assert np.allclose(batch.latents[4][row], expected[0].numpy(), atol=2e-3)
        assert batch.images is not None
        assert np.abs(batch.images[row] - expected[1] * 255).max() <= 1


def test_what_the_record_says(quick: Path) -> None:
    info = read_info(quick)
    assert (info.name, info.split, info.latent_shape, info.image_size) == (
        "noisy-genai-bench",
        "test",
        (4, 16, 16),
        (32, 32),
    )
    assert (info.steps, info.candidates, info.n_prompts, info.rows) == (4, 2, 3, 6)
    assert info.stored == (0, 1, 2, 3, 4)
    assert info.spec["pipeline"]["name"] == "shapes"
    assert info.preview == resolve_pipeline("shapes").preview
    assert str(quick) not in (quick / "dataset.json").read_text()


def test_again_costs_nothing_and_changes_nothing(quick: Path) -> None:
    before = files(quick)
    config = replace(QUICK, out=quick)
    unloaded = Hooked(config, lambda pipe: pytest.fail("a pipeline was loaded"))
    assert build(config, progress=False, process=unloaded).built == 0
    assert files(quick) == before


def test_batches_and_other_prompts_change_nobody(quick: Path, tmp_path: Path) -> None:
    build(replace(QUICK, out=tmp_path / "b", batch_size=1), progress=False)
    assert np.allclose(latents(tmp_path / "b"), latents(quick), atol=5e-3)
    bench = open_bench(quick)
    prompts = tmp_path / "prompts.csv"
    chosen = [bench.prompts[2], bench.prompts[0]]
    prompts.write_text("id,prompt\n" + "".join(f"{p.prompt_id},{p.prompt}\n" for p in chosen))
    build(replace(QUICK, out=tmp_path / "c", prompts=prompts), progress=False)
    assert np.allclose(latents(tmp_path / "c"), latents(quick)[[4, 5, 0, 1]], atol=5e-3)


def test_ncc_rows_carry_corruptions(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "captions.txt"
    prompts.write_text("two red circles on gray background\na cat\n")
    config = BuildConfig("ncc", out=tmp_path / "ncc", prompts=prompts, steps=3, positions="1:2")
    build(config)
    out = capfd.readouterr()
    assert "1 of 2 captions have no corruptions" in out.err
    assert not out.out
    bench = open_bench(tmp_path / "ncc")
    assert (bench.info.name, bench.info.split, bench.info.stored) == ("noisy-conceptual-captions", "train", (1, 2))
    batch = next(bench.batches())
    assert set(batch.corruptions[0] or {}) == {"subject", "colour", "quantity", "background"}
    assert batch.corruptions[1] is None


def test_another_pipeline_gets_a_fitted_preview(sd15_folder: Path, tmp_path: Path) -> None:
    build(replace(QUICK, out=tmp_path / "bench", pipeline=str(sd15_folder)), progress=False)
    info = read_info(tmp_path / "bench")
    assert (info.latent_shape, info.image_size) == ((4, 8, 8), (16, 16))
    assert info.preview is not None


def test_a_candidate_that_breaks_becomes_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = candidate_seed(0, "shapes-00001", 1)

    original = diffusers.StableDiffusion3Pipeline.prepare_latents

    @functools.wraps(original)
    def prepare(self: Any, *arguments: Any) -> torch.Tensor:
        drawn: torch.Tensor = original(self, *arguments)
        generators = next(each for each in arguments if isinstance(each, list))
        drawn[[generator.initial_seed() == bad for generator in generators]] = torch.nan
        return drawn

    monkeypatch.setattr(diffusers.StableDiffusion3Pipeline, "prepare_latents", prepare)
    assert build(replace(QUICK, out=tmp_path / "bench"), progress=False).failed == 1
    bench = open_bench(tmp_path / "bench")
    names = [name for b in bench.batches([4]) for name in zip(b.prompt_ids, b.candidates, strict=True)]
    assert len(names) == 5
    assert ("shapes-00001", 1) not in names
    assert np.isfinite(latents(tmp_path / "bench")).all()


KILLED = (
    DIES
    + """
import sys
from pathlib import Path
from nbench.benchmarks.build import build
from nbench.builders.config import BuildConfig
from nbench.jobs.records import Records
from nbench.shards.parquet import ParquetShardWriter
out, where, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])

if where != "nowhere":
    dies(Records if where == "add" else ParquetShardWriter, where, calls)
build(BuildConfig("genai-bench", out=Path(out), limit=3, candidates=2, steps=4, batch_size=2, rows_per_shard=3,
                  references=("clip",)))
"""
)


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert run_program(KILLED, calm, "nowhere", 0).returncode == 0
    # in the middle of a shard; between a shard and its record; in the second shard
    for where, calls in (("write", 1), ("add", 0), ("write", 3), ("commit", 0)):
        assert run_program(KILLED, killed, where, calls).returncode == -9
        with pytest.raises(NbenchError, match="half built"):
            open_bench(killed)
    assert run_program(KILLED, killed, "nowhere", 0).returncode == 0
    assert files(killed) == files(calm)


def test_fresh_removes_only_what_nbench_made(quick: Path, tmp_path: Path) -> None:
    out = shutil.copytree(quick, tmp_path / "bench")
    (out / "notes.txt").write_text("mine")
    other = replace(QUICK, out=out, options=PipelineOptions(guidance=1.0))
    with pytest.raises(NbenchError, match=r"another build \(guidance .* there, 1\.0 now\)"):
        build(other, progress=False)
    assert build(replace(other, fresh=True), progress=False).built == 6
    assert (out / "notes.txt").read_text() == "mine"


def test_nobody_removes_what_another_builder_is_at(quick: Path, tmp_path: Path) -> None:
    out = shutil.copytree(quick, tmp_path / "bench")
    claims = Claims(LocalStore(out))
    claim, _ = claims.take(0)
    try:
        for change in ({"fresh": True}, {"extend": True, "candidates": 3}):
            with pytest.raises(NbenchError, match=r"is writing to .*: wait for it to end"):
                build(replace(QUICK, out=out, **change), progress=False)
    finally:
        claims.release(claim, True)
        claims.close()
    assert files(out) == files(quick)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tmp: {"prompts": tmp / "empty.txt"}, "is empty"),
        (lambda tmp: {"prompts": tmp / "column.csv"}, "no column `prompt`"),
        (lambda tmp: {"pipeline": str(tmp)}, "is not a diffusers pipeline"),
        (lambda tmp: {"out": tmp / "empty.txt" / "bench"}, "cannot write to"),
    ],
)
def test_bad_input(tmp_path: Path, change: Callable[[Path], dict[str, Any]], message: str) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "column.csv").write_text("caption\na cat\n")
    with pytest.raises(NbenchError, match=message):
        build(replace(QUICK, **{"out": tmp_path / "bench", **change(tmp_path)}), progress=False)
    assert not (tmp_path / "bench/dataset.json").exists()


MEMORY = """
import resource, sys
from pathlib import Path
from nbench.benchmarks.build import build
from nbench.builders.config import BuildConfig
build(BuildConfig("genai-bench", out=Path(sys.argv[1]), pipeline=sys.argv[2], limit=int(sys.argv[3]), candidates=1,
                  steps=20, batch_size=8, rows_per_shard=50, references=()), progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of 64x64 make 0.7 MB a row, so that rows kept by mistake would show: 100 more are 70 MB."""
    # allocators that keep little of what is freed: what counts is what the build holds
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    pipeline = save_sd15(tmp_path / "pipeline", size=64, channels=(8,))
    peaks = []
    for prompts in (100, 200):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / str(prompts)), str(pipeline), str(prompts)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stdout))
    assert peaks[1] < 1.05 * peaks[0]
