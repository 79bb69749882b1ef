"""Folders in the layout of NoisyCLIP's authors, made by a real scheduler, become data sets with raw latents."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from nbench.builders.importing.config import ImportConfig
from nbench.builders.importing.noisyclip import ImportReport, import_noisyclip
from nbench.builders.importing.scheduler_file import schedule
from nbench.errors import NbenchError
from nbench.jobs.places import store_at
from nbench.options import Place
from nbench.pipelines.aliases import ALIASES
from nbench.shards.dataset import read_info
from nbench.shards.fingerprint import fingerprint
from nbench.shards.reader import open_bench
from nbench.shards.schema import CORRUPTION_KINDS, PositionInfo, TrajectoryBatch
from nbench.shards.verify import verify

from ...forked import run_program
from ...s3_servers import S3Folder
from ..conftest import DIES

STEPS = 4
SHAPE = (4, 8, 8)
PROMPTS = ("7", "12", "103")
CANDIDATES = (3, 10)
NAME = "{0}_{1}"
EULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def run(seed: int, shape: tuple[int, ...] = SHAPE, steps: int = STEPS) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A run of the Euler scheduler in float16 with random predictions: raw latents 0..T, and what the denoiser gets."""
    scheduler = diffusers.EulerDiscreteScheduler(**EULER)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    latent = (torch.randn(1, *shape, generator=generator) * scheduler.init_noise_sigma).half()
    raw, inputs = [latent], []
    for timestep in scheduler.timesteps:
        inputs.append(scheduler.scale_model_input(torch.cat([latent] * 2), timestep))
        predicted = torch.randn(1, *shape, generator=generator).half()
        latent = scheduler.step(predicted, timestep, latent).prev_sample
        raw.append(latent)
    return raw, [*inputs, torch.cat([latent] * 2)]


def seed_of(prompt: str, candidate: int) -> int:
    return int(prompt) * 100 + candidate


def pixels(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def save(path: Path, seed: int, finished: bool = True) -> None:
    """A candidate as the authors keep it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = run(seed)[1]
    torch.save(inputs if finished else inputs[:-1], path)
    Image.fromarray(pixels(seed)).save(path.with_suffix(".png"))


def make(folder: Path, name: str = NAME, finished: bool = True) -> ImportConfig:
    """A folder with three prompts of two candidates each, and what imports it."""
    for prompt in PROMPTS:
        for candidate in CANDIDATES:
            save(folder / "files" / (name.format(int(prompt), candidate) + ".pt"), seed_of(prompt, candidate), finished)
    rows = [{"id": prompt.zfill(5), "prompt": f"a picture of {prompt}"} for prompt in (*PROMPTS, "999")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ImportConfig(folder / "files", folder / "bench", folder / "prompts.jsonl", steps=STEPS, rows_per_shard=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImportConfig:
    """A folder that tests only read."""
    return make(tmp_path_factory.mktemp("noisyclip"))


@pytest.fixture
def broken(source: ImportConfig, tmp_path: Path) -> ImportConfig:
    """A copy of the folder, to break something in."""
    folder = shutil.copytree(source.folder, tmp_path / "files")
    return replace(source, folder=folder, out=tmp_path / "bench")


def sound(out: Place, failed: int = 0) -> list[TrajectoryBatch]:
    """The rows that succeeded, one by one, of a data set without defects; `failed` others did not."""
    assert verify(out).defects == ()
    bench = open_bench(out)
    assert bench.n_failed == failed
    return [batch for batch in bench.batches(bench.info.stored, images=True, batch_size=1) if len(batch)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def do(config: ImportConfig, **change: Any) -> ImportReport:
    return import_noisyclip(replace(config, **change), progress=False)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_rows_are_the_raw_latents_of_the_run(source: ImportConfig, tmp_path: Path, format: str, dtype: str) -> None:
    report = do(source, out=tmp_path / "bench", format=format, latent_dtype=dtype)
    assert report == ImportReport(tmp_path / "bench", rows=6, imported=6, failed=0, unused=1)
    rows = sound(report.out)
    wanted = [(prompt, candidate) for prompt in PROMPTS for candidate in CANDIDATES]
    assert len(rows) == len(wanted)
    for row, (prompt, candidate) in zip(rows, wanted, strict=True):
        assert (row.prompt_ids, row.prompts) == ([prompt.zfill(5)], [f"a picture of {prompt}"])
        assert (row.candidates, row.seeds) == ([CANDIDATES.index(candidate)], [0])
        assert row.images is not None
        assert np.array_equal(row.images[0], pixels(seed_of(prompt, candidate)))
        for k, raw in enumerate(run(seed_of(prompt, candidate))[0]):
            true = raw[0].float().numpy()
            step = np.abs(true).max((1, 2), keepdims=True) / 127 if dtype == "int8" else 0
            # float16 rounds twice, once when the input was stored
            assert np.all(np.abs(row.latents[k][0] - true) <= 2e-3 * np.abs(true) + 1e-3 + 0.51 * step)


@pytest.mark.slow
def test_to_a_bucket(source: ImportConfig, tmp_path: Path, s3: S3Folder) -> None:
    do(source, out=tmp_path / "bench")
    do(source, out=f"{s3.url}/bench")
    store = store_at(f"{s3.url}/bench")
    assert dict(store.read_all(store.list(""))) == files(tmp_path / "bench")


def test_what_the_record_says(source: ImportConfig, tmp_path: Path) -> None:
    info = read_info(do(source, out=tmp_path / "bench").out)
    assert (info.name, info.split, info.steps, info.candidates, info.n_prompts) == (
        "noisy-genai-bench",
        "test",
        STEPS,
        2,
        3,
    )
    assert (info.latent_shape, info.image_size, info.stored) == (SHAPE, (16, 16), tuple(range(STEPS + 1)))
    assert info.spec["source"] == "noisyclip-pt"
    assert info.spec["scheduler"] == {"class": "EulerDiscreteScheduler", **EULER}
    assert "seed" not in info.spec
    assert str(tmp_path) not in json.dumps(info.spec)
    assert fingerprint(info.spec) == info.fingerprint
    assert info.preview is not None
    assert info.preview != ALIASES["sdxl"].preview


def test_the_schedule_is_sdxls() -> None:
    """Against the definition: leading timesteps with offset 1, and the variance of scaled-linear betas."""
    _, positions = schedule("euler-sdxl", 50)
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    assert len(positions) == 51
    for k, place in enumerate(positions[:-1]):
        timestep = 981 - 20 * k
        sigma = np.sqrt((1 - kept[timestep]) / kept[timestep])
        assert (place.position, place.timestep) == (k, timestep)
        assert place.sigma == pytest.approx(sigma, rel=1e-4)
        assert place.input_scale == pytest.approx((sigma**2 + 1) ** -0.5, rel=1e-4)
    assert positions[-1] == PositionInfo(50, None, 0.0, 1.0)


def test_a_schedulers_folder_and_none(source: ImportConfig, tmp_path: Path) -> None:
    diffusers.EulerDiscreteScheduler(**EULER).save_pretrained(tmp_path / "pipeline" / "scheduler")
    for number, folder in enumerate((tmp_path / "pipeline", tmp_path / "pipeline" / "scheduler")):
        out = do(source, out=tmp_path / str(number), scheduler=str(folder)).out
        assert read_info(out).positions == tuple(schedule("euler-sdxl", STEPS)[1])
    rows = sound(do(source, out=tmp_path / "none", scheduler="none").out)
    info = read_info(tmp_path / "none")
    assert info.spec["scheduler"] is None
    assert [(place.timestep, place.sigma, place.input_scale) for place in info.positions] == [
        *[(None, None, 1.0)] * STEPS,
        (None, 0.0, 1.0),
    ]
    for k, stored in enumerate(run(seed_of(PROMPTS[0], CANDIDATES[0]))[1]):
        assert np.array_equal(rows[0].latents[k][0], stored[0].numpy())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no scheduler"),
        (lambda path: path.write_text("{"), "is not the configuration"),
        (lambda path: path.write_text('{"_class_name": "ConfigMixin"}'), "diffusers has no ConfigMixin"),
        (lambda path: path.write_text('{"_class_name": "HeunDiscreteScheduler"}'), "first-order scheduler"),
        (
            lambda path: path.write_text('{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "odd"}'),
            "does not run 4 steps",
        ),
        (
            lambda path: path.write_text(
                '{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "num_train_timesteps": 2}'
            ),
            "does not run 4 steps",
        ),
    ],
)
def test_a_scheduler_that_is_none(
    source: ImportConfig, tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "scheduler_config.json")
    with pytest.raises(NbenchError, match=message):
        do(source, out=tmp_path / "bench", scheduler=str(tmp_path))
    assert not (tmp_path / "bench").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("prompt_{0}_seed_{1}", None),
        ("{0:05d}-{1}", None),
        ("{0}/{1}", None),
        ("run1/latents/{0:04d}_{1:02d}", None),
        ("c{1}-of-{0}", r"c(?P<candidate>\d+)-of-(?P<prompt>\d+)"),
    ],
)
def test_names(source: ImportConfig, tmp_path: Path, name: str, pattern: str | None) -> None:
    config = make(tmp_path, name)
    rows = sound(do(config, **({"pattern": pattern} if pattern else {})).out)
    same_rows = sound(do(source, out=tmp_path / "other").out)
    assert [(row.prompt_ids, row.candidates) for row in rows] == [(row.prompt_ids, row.candidates) for row in same_rows]
    assert all(np.array_equal(row.latents[2], other.latents[2]) for row, other in zip(rows, same_rows, strict=True))


def test_one_candidate_a_prompt_needs_no_number(tmp_path: Path) -> None:
    for prompt in (0, 1):
        save(tmp_path / "files" / f"{prompt}.pt", prompt)
    (tmp_path / "prompts.txt").write_text("two red circles on gray background\na dog")
    config = ImportConfig(tmp_path / "files", tmp_path / "ncc", tmp_path / "prompts.txt", kind="ncc", steps=STEPS)
    rows = sound(do(config, positions="1,2").out)
    assert [(row.prompt_ids, row.candidates) for row in rows] == [(["0"], [0]), (["1"], [0])]
    info = read_info(config.out)
    assert (info.name, info.split, info.stored) == ("noisy-conceptual-captions", "train", (1, 2))
    assert rows[0].corruptions[0] is not None
    assert set(rows[0].corruptions[0]) == set(CORRUPTION_KINDS)


def test_positions(source: ImportConfig, tmp_path: Path) -> None:
    few, all_rows = (sound(do(source, out=tmp_path / text, positions=text).out) for text in ("1,2", "all"))
    assert read_info(tmp_path / "1,2").stored == (1, 2, STEPS)
    assert np.array_equal(few[5].latents[2], all_rows[5].latents[2])


def test_lists_without_the_finished_latent(tmp_path: Path) -> None:
    config = make(tmp_path, finished=False)
    rows = sound(do(config).out)
    info = read_info(config.out)
    assert (info.steps, info.stored, info.spec["positions"]) == (STEPS, tuple(range(STEPS)), list(range(STEPS)))
    raw = run(seed_of(PROMPTS[0], CANDIDATES[0]))[0]
    assert np.allclose(rows[0].latents[STEPS - 1], raw[STEPS - 1].numpy(), rtol=2e-3, atol=1e-3)
    with pytest.raises(NbenchError, match=f"latents {STEPS} not in .*: its files hold 0..{STEPS - 1}"):
        do(config, out=tmp_path / "other", positions=f"0,{STEPS}")


def test_previews_of_sdxl_are_the_published_ones(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    torch.save(run(0, (4, 128, 128), steps=1)[1], tmp_path / "files" / "0_0.pt")
    Image.fromarray(pixels(0)).save(tmp_path / "files" / "0_0.png")
    (tmp_path / "prompts.txt").write_text("a dog")
    do(ImportConfig(tmp_path / "files", tmp_path / "bench", tmp_path / "prompts.txt", steps=1))
    assert read_info(tmp_path / "bench").preview == ALIASES["sdxl"].preview


class Hostile:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def halves_differ(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    inputs[2][1, 0, 0, 0] += 1
    return inputs


CONTENT: list[tuple[Callable[[list[torch.Tensor]], object], str]] = [
    (lambda inputs: {"latents": inputs}, "holds a dict"),
    (lambda inputs: torch.stack(inputs), "holds a Tensor"),
    (lambda inputs: [*inputs[:-1], "final"], "not a list of tensors"),
    (lambda inputs: [], "holds 0 tensors"),
    (lambda inputs: inputs[:-2], "holds 3 tensors, not the 4 or 5"),
    (lambda inputs: inputs[:-1], r"holds 4 latents of \[4, 8, 8\], the first candidate 5"),
    (lambda inputs: [*inputs[:-1], inputs[-1][:, :, :4]], "different shapes"),
    (lambda inputs: [each[:, :, :4].clone() for each in inputs], r"latents of \[4, 4, 8\]"),
    (lambda inputs: [each[:1].clone() for each in inputs], r"tensors \[1, 4, 8, 8\]"),
    (lambda inputs: [each.int() for each in inputs], "holds torch.int32"),
    (lambda inputs: [each.to_sparse() for each in inputs], "not floating-point ones"),
    (lambda inputs: [torch.zeros(1, 1, 1, 1).expand(2, 4, 2**15, 2**15)] * 5, "claims more numbers"),
    (halves_differ, "two different latents at 2"),
]


@pytest.mark.parametrize(("change", "message"), CONTENT)
def test_a_file_that_holds_something_else(
    broken: ImportConfig, change: Callable[[list[torch.Tensor]], object], message: str
) -> None:
    path = broken.folder / "12_10.pt"
    torch.save(change(run(seed_of("12", 10))[1]), path)
    check_bad(broken, path, message)


def check_bad(config: ImportConfig, path: Path, message: str) -> None:
    """Candidate 1 of prompt 12 stops an import, which then goes on with --skip-bad, and fails alone."""
    with pytest.raises(NbenchError, match=f"(?s)^{path} .*{message}.*--skip-bad"):
        do(config)
    report = do(config, skip_bad=True)
    assert (report.rows, report.failed) == (6, 1)
    assert len(sound(config.out, failed=1)) == 5
    (row,) = [
        row
        for batch in open_bench(config.out).rows(["id", "status", "error"], 10)
        for row in batch.to_pylist()
        if row["status"] == "failed"
    ]
    assert row["id"] == "00012/1"
    assert row["error"].startswith(f"{path.name} ")
    assert str(config.folder) not in row["error"]


@pytest.mark.parametrize("write", ["archive", "pickle"])
def test_nothing_is_executed(broken: ImportConfig, tmp_path: Path, write: str) -> None:
    path, trace = broken.folder / "12_10.pt", tmp_path / "trace"
    inputs = [*run(0)[1], Hostile(trace)]
    if write == "archive":
        torch.save(inputs, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(trace)))
    check_bad(broken, path, "was not unpickled")
    assert not trace.exists()
    if write == "pickle":
        pickle.loads(path.read_bytes())  # it would have been
        assert trace.exists()


@pytest.mark.parametrize("kept", [0, 10, 2000, -1])
def test_a_file_that_is_cut_short(broken: ImportConfig, kept: int) -> None:
    path = broken.folder / "12_10.pt"
    path.write_bytes(path.read_bytes()[:kept])
    check_bad(broken, path, "damaged")


def test_images_that_are_none(broken: ImportConfig) -> None:
    path = broken.folder / "12_10.png"
    whole = path.read_bytes()
    Image.fromarray(pixels(0, side=24)).save(path)
    check_bad(broken, path, "is 24x24, the first candidate's image 16x16")
    for number, (content, message) in enumerate(((b"GIF89a", "is no PNG"), (whole[:200], "cannot be decoded"))):
        path.write_bytes(content)
        check_bad(replace(broken, out=Path(broken.out).with_name(str(number))), path, message)


def test_a_bad_first_file_decides_nothing(broken: ImportConfig) -> None:
    (broken.folder / "7_3.pt").write_bytes(b"")
    with pytest.raises(NbenchError, match=r"7_3\.pt .*damaged"):
        do(broken)
    assert not Path(broken.out).exists()
    assert do(broken, skip_bad=True).failed == 1
    assert len(sound(broken.out, failed=1)) == 5
    for path in broken.folder.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(NbenchError, match="no candidate that can be read"):
        do(broken, out=Path(broken.out).with_name("other"), skip_bad=True)


def test_a_latent_that_is_not_finite_fails_its_row_alone(broken: ImportConfig) -> None:
    inputs = run(0)[1]
    inputs[3][:, 1, 2, 3] = float("nan")
    torch.save(inputs, broken.folder / "7_10.pt")
    assert do(broken).failed == 1
    assert len(sound(broken.out, failed=1)) == 5
    errors = [error for rows in open_bench(Path(broken.out)).rows(["error"], 10) for error in rows["error"].to_pylist()]
    assert errors[1] == "latent not finite from position 3"


def rename(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for end in (".pt", ".png"):
            (folder / f"{old}{end}").rename(folder / f"{new}{end}")

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda folder: (folder / "12_10.png").unlink(), {}, r"no image .*12_10\.png: "),
        (lambda folder: (folder / "12_10.pt").unlink(), {}, "has no candidate 10 of prompt 12, "),
        (rename("12_10", "12_11"), {}, r"has no candidate 11 of prompt 7 \(and 2 more\)"),
        (rename("12_10", "13_10"), {}, r"13_10\.pt: the prompt file lacks"),
        (lambda folder: shutil.copy(folder / "12_10.pt", folder / "0012-10.pt"), {}, "are the same candidate"),
        (lambda folder: shutil.copy(folder / "12_10.pt", folder / "model.pt"), {}, r"model\.pt does not match"),
        (lambda folder: None, {"pattern": "(?P<prompt>"}, "not a regular expression"),
        (lambda folder: None, {"pattern": r"\d+_\d+"}, "no group"),
        (lambda folder: None, {"pattern": r"(?P<prompt>\d+)(?P<candidate>_\d+)"}, "does not match"),
        (lambda folder: [path.unlink() for path in folder.glob("*.pt")], {}, "no .pt files in"),
        (lambda folder: shutil.rmtree(folder), {}, "no .pt files in"),
    ],
)
def test_what_is_missing_is_known_before_the_work(
    broken: ImportConfig, change: Callable[[Path], object], options: dict[str, Any], message: str
) -> None:
    change(broken.folder)
    with pytest.raises(NbenchError, match=message):
        do(broken, **options)
    assert not Path(broken.out).exists()


def test_prompts_that_names_do_not_tell_apart(broken: ImportConfig, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("id,prompt\n7,a\n007,b\n")
    with pytest.raises(NbenchError, match="'7' and '007' differ only by leading zeros"):
        do(broken, prompts=tmp_path / "two.csv")


@pytest.mark.parametrize("change", [{"steps": 0}, {"rows_per_shard": 0}, {"positions": "9"}, {"positions": "x"}])
def test_settings_that_make_no_sense(source: ImportConfig, change: dict[str, Any]) -> None:
    with pytest.raises(NbenchError):
        replace(source, **change)


KILLED = (
    DIES
    + """
import sys
from pathlib import Path
from nbench.builders.importing.config import ImportConfig
from nbench.builders.importing.noisyclip import import_noisyclip
from nbench.jobs.store import LocalStore
from nbench.shards.parquet import ParquetShardWriter
folder, out, prompts, where, calls = *map(Path, sys.argv[1:4]), sys.argv[4], int(sys.argv[5])

dies(LocalStore if where == "put" else ParquetShardWriter, where, calls)
import_noisyclip(ImportConfig(folder, out, prompts, steps=4, rows_per_shard=4))
"""
)


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_gives_the_same_bytes(source: ImportConfig, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    for where, calls in (("write_rows", 2), ("put", 0), ("write_rows", 5)):
        assert run_program(KILLED, source.folder, killed, source.prompts, where, calls).returncode == -9
        with pytest.raises(NbenchError, match="half built"):
            open_bench(killed)
    assert do(source, out=killed).imported == 2
    do(source, out=tmp_path / "calm")
    assert files(killed) == files(tmp_path / "calm")


def test_resume(broken: ImportConfig) -> None:
    do(broken)
    first = files(Path(broken.out))
    assert do(broken).imported == 0
    with pytest.raises(NbenchError, match=r"another build \(latent_dtype float16 there, int8 now\)"):
        do(broken, latent_dtype="int8")
    with pytest.raises(NbenchError, match=r"another build \(scheduler"):
        do(broken, scheduler="none")
    assert files(Path(broken.out)) == first
    torch.save([each.float() for each in run(5)[1]], broken.folder / "7_3.pt")
    torch.save([each.float() for each in run(5)[1]], broken.folder / "7_10.pt")
    with pytest.raises(NbenchError, match=r"another build \(other pipeline"):
        do(broken)
    assert do(broken, fresh=True).imported == 6
    sound(broken.out)
