"""Scores on disk: kept, resumed after a kill, extended by positions and captions, and discarded if they do not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats

from nbench.benchmarks.evaluate import evaluate, score_share
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.result_file import read_result
from nbench.benchmarks.results.terminal import report_table
from nbench.benchmarks.scoring.options import ScoreOptions, parse_batch_size
from nbench.benchmarks.scoring.score import score_bench
from nbench.benchmarks.scoring.store import Store
from nbench.builders.extension import extended
from nbench.errors import NbenchError
from nbench.jobs.options import EngineOptions
from nbench.jobs.places import beneath, store_at
from nbench.jobs.status import at_work
from nbench.scorers.registry import get_scorer
from nbench.shards.dataset import DatasetFolder
from nbench.shards.fingerprint import fingerprint
from nbench.shards.formats import shard_writer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.scores import read_scores, reference_path, scores_metadata, write_scores

from ...dataset_info import commit_shard, dataset_info, missing
from ...s3_servers import S3Folder
from ...small_bench import CANDIDATES, PROMPTS, STEPS, Quality, make_bench
from ..signals_bench import make_signals_bench
from .test_score import Brightness

ROWS = PROMPTS * CANDIDATES - 1
SCORER = """
import os, pathlib, signal, time, torch

LOG = pathlib.Path(__file__).with_name("log")

class Brightness:
    name, reads, fingerprint = "brightness", "latent", "{fingerprint}"

    def score(self, inputs, prompts):
        with open(LOG, "a") as log:
            print(len(prompts), file=log)
        left = os.environ.get("KILL_AFTER")
        if left is not None and sum(1 for _ in open(LOG)) > int(left):
            os.kill(os.getpid(), signal.SIGKILL)
        if "WAIT_FOR" in os.environ:
            pathlib.Path(os.environ["WAIT_FOR"] + ".waits").touch()
            while not pathlib.Path(os.environ["WAIT_FOR"]).exists():
                time.sleep(0.01)
        return inputs[:, 0].mean((1, 2))
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Quality]:
    """The small bench, of three shards, with the brightness of the image as its reference `clip`."""
    bench, truth = make_bench(tmp_path_factory.mktemp("store") / "small")
    table = score_bench(bench, Brightness(reads="image"), [STEPS])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), table, origin)
    return bench, truth


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with corrupted captions and estimates of x0."""
    return make_signals_bench(tmp_path_factory.mktemp("store") / "signals")


LATE = """
import pathlib
LOADED = pathlib.Path(__file__).with_suffix(".loaded")

class {name}:
    reads, fingerprint = "latent", "1"
    name = "{name}"

    def load(self):
        LOADED.write_text(LOADED.read_text() + "." if LOADED.exists() else ".")
        if "{name}" == "broken":
            raise OSError("cut short")

    def score(self, inputs, prompts):
        assert LOADED.exists()
        return inputs[:, 0].mean((1, 2))
"""


class Counted:
    """A scorer of a file, with how many inputs it has been handed."""

    def __init__(self, folder: Path, fingerprint: str = "1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self.file = folder / "mine.py"
        self.file.write_text(SCORER.format(fingerprint=fingerprint))

    def config(self, bench: Bench, latents: str, out: Path) -> EvaluateConfig:
        return EvaluateConfig(bench.path, (f"{self.file}:Brightness",), latents, out)

    def taken(self) -> int:
        """Inputs since the last call."""
        count = sum(map(int, self._log.read_text().split())) if self._log.exists() else 0
        self._log.unlink(missing_ok=True)
        return count


def command(config: EvaluateConfig) -> list[str]:
    """What does in a process of its own what `evaluate(config)` does in this one."""
    values = {"--bench": config.bench, "--model": config.models[0], "--latents": config.latents, "--out": config.out}
    options = [str(word) for option in values.items() for word in option]
    return [sys.executable, "-c", "from nbench.cli import main; main()", "evaluate", "--device", "cpu", *options]


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_and_leaves_the_same_bytes(
    bench: tuple[Bench, Quality], tmp_path: Path
) -> None:
    whole, killed = Counted(tmp_path / "whole"), Counted(tmp_path / "killed")
    evaluate(whole.config(bench[0], "0,5", tmp_path / "a"))
    assert whole.taken() == 3 * ROWS
    run = command(killed.config(bench[0], "0,5", tmp_path / "b"))
    done = subprocess.run(run, env=os.environ | {"KILL_AFTER": "4"}, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "b/small/brightness.parquet").exists()
    assert [path.name for path in (tmp_path / "b/small/.brightness.parts").glob("*.parquet")] == ["00000.parquet"]
    before = killed.taken()
    assert before > 3 * 59
    rest = subprocess.run([*run, "--json"], capture_output=True, check=True, text=True)
    assert killed.taken() == 3 * (ROWS - 59)  # the first shard has 60 rows, one of which failed
    assert "scoring brightness: " in rest.stderr
    assert json.loads(rest.stdout)["rows"][0]["n_scored"] == ROWS
    one, other = (tmp_path / name / "small/brightness.parquet" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "b/small/.brightness.parts").exists()


@pytest.fixture
def waiting(bench: tuple[Bench, Quality], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """An evaluation in the middle of its scores, which goes on when a file is there, and that file."""
    go = tmp_path / "go"
    config = Counted(tmp_path / "waiting").config(bench[0], "0,5", tmp_path / "out")
    with subprocess.Popen(command(config), env=os.environ | {"WAIT_FOR": str(go)}, stderr=subprocess.PIPE) as process:
        while not Path(f"{go}.waits").exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        yield process, go
        process.kill()


@pytest.mark.slow
def test_evaluations_of_the_same_share_the_shards_and_others_are_refused(
    bench: tuple[Bench, Quality], waiting: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    process, go = waiting
    other = Counted(tmp_path / "other")
    same = other.config(bench[0], "0,5", tmp_path / "out")
    for config in (replace(same, latents="5"), replace(same, fresh=True)):
        with pytest.raises(NbenchError, match=r"is writing to .*brightness.parts: wait for it to end"):
            evaluate(config)
    assert other.taken() == 0  # nothing was scored in vain
    evaluate(replace(same, models=("random",)))  # a table of its own
    joined = subprocess.Popen(command(same))
    while not (
        tmp_path / "out/small/.brightness.parts/00002.parquet"
    ).exists():  # the joined one is at the other shards
        assert joined.poll() is None
        time.sleep(0.01)
    go.touch()
    assert (process.wait(), joined.wait()) == (0, 0)
    table = tmp_path / "out/small/brightness.parquet"
    evaluate(replace(same, out=tmp_path / "calm"))
    assert table.read_bytes() == (tmp_path / "calm/small/brightness.parquet").read_bytes()
    assert {path.name for path in table.parent.iterdir() if path.is_file()} == {
        f"{model}.{kind}" for model in ("brightness", "random") for kind in ("parquet", "json")
    }


@pytest.mark.slow
def test_the_lock_of_a_killed_evaluation_blocks_nobody(
    bench: tuple[Bench, Quality], waiting: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    process, _ = waiting
    process.kill()
    process.wait()
    assert (tmp_path / "out/small/.brightness.parts").is_dir()
    evaluate(Counted(tmp_path / "other").config(bench[0], "5", tmp_path / "out"))
    assert not (tmp_path / "out/small/.brightness.parts").exists()


@pytest.mark.slow
def test_three_at_once_all_end_well(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    config = Counted(tmp_path / "mine").config(bench[0], "0,5", tmp_path / "out")
    started = [subprocess.Popen(command(config), stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1] * process.returncode, process.returncode) for process in started] == [("", 0)] * 3
    evaluate(replace(config, out=tmp_path / "calm"))
    one, other = (tmp_path / name / "small/brightness.parquet" for name in ("out", "calm"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [EngineOptions(workers=2), EngineOptions(engine="ray", workers=2)])
def test_scores_of_other_processes_are_those_of_one(
    bench: tuple[Bench, Quality], tmp_path: Path, workers: EngineOptions
) -> None:
    config = Counted(tmp_path / "mine").config(bench[0], "0,5", tmp_path / "out")
    report = evaluate(config, workers=workers)
    alone = evaluate(replace(config, out=tmp_path / "calm"))
    assert report.rows == alone.rows
    one, other = (tmp_path / name / "small/brightness.parquet" for name in ("out", "calm"))
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "out/small/.brightness.parts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [EngineOptions(workers=2), EngineOptions(engine="ray", workers=2)])
def test_several_models_are_spread_over_workers_and_one_that_fails_stops_no_other(
    bench: tuple[Bench, Quality], tmp_path: Path, workers: EngineOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their scores are those of one process; the failure is told, and what the others scored is kept."""
    files = [Counted(tmp_path / name).file.rename(tmp_path / f"{name}.py") for name in ("one", "two")]
    for file in files:
        file.write_text(file.read_text().replace('"brightness"', f'"{file.stem}"'))
    broken = tmp_path / "broken.py"
    broken.write_text(LATE.format(name="broken"))
    models = tuple(f"{file}:Brightness" for file in files)
    config = EvaluateConfig(bench[0].path, models, "0,5", tmp_path / "out")
    with pytest.raises(NbenchError, match="scorer broken cannot be loaded: OSError: cut short"):
        evaluate(replace(config, models=(f"{broken}:broken", *models)), progress=True, workers=workers)
    err = capsys.readouterr().err
    assert "scoring broken: scorer broken cannot be loaded: OSError: cut short" in err
    assert "scoring 3 models: " in err
    inputs = (tmp_path / "log").read_text()
    assert sum(map(int, inputs.split())) == 2 * 3 * ROWS
    report = evaluate(config, workers=workers)
    assert (tmp_path / "log").read_text() == inputs  # nothing is scored again
    alone = evaluate(replace(config, out=tmp_path / "calm"))
    assert report.rows == alone.rows
    for name in ("one", "two"):
        one, other = (tmp_path / out / f"small/{name}.parquet" for out in ("out", "calm"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("in_bucket", [False, True])
def test_shares_are_scored_apart_and_measured_together(
    bench: tuple[Bench, Quality], tmp_path: Path, s3: S3Folder, in_bucket: bool
) -> None:
    scorer, out = Counted(tmp_path), f"{s3.url}/out" if in_bucket else tmp_path / "out"
    config, store = replace(scorer.config(bench[0], "0,5", tmp_path), out=out), store_at(beneath(out, "small"))
    left = [score_share(config, EngineOptions(rank=str(rank), world_size=2)) for rank in range(2)]
    assert left == [1, 0]
    assert scorer.taken() == 3 * ROWS
    assert [status.done for status in at_work(beneath(out, "small"))] == [3]
    evaluate(config)
    assert scorer.taken() == 0
    evaluate(replace(config, out=tmp_path / "calm"))
    assert store.read("brightness.parquet") == (tmp_path / "calm/small/brightness.parquet").read_bytes()
    assert not [name for name in store.list("") if name.startswith(".")]


@pytest.mark.slow
def test_an_evaluation_at_a_url_that_was_killed_goes_on(
    bench: tuple[Bench, Quality], tmp_path: Path, s3: S3Folder
) -> None:
    scorer = Counted(tmp_path)
    config = replace(scorer.config(bench[0], "0,5", tmp_path), out=f"{s3.url}/out")
    run, environment = command(config), os.environ | s3.environment
    done = subprocess.run(run, env=environment | {"KILL_AFTER": "4"}, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert scorer.taken() > 3 * 59
    subprocess.run(run, env=environment, capture_output=True, check=True)
    assert scorer.taken() == 3 * (ROWS - 59)


def test_only_what_is_missing_is_scored(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    scorer, out = Counted(tmp_path), tmp_path / "out"
    first = evaluate(scorer.config(bench[0], "5", out))
    assert scorer.taken() == 2 * ROWS
    again = evaluate(scorer.config(bench[0], "5", out))
    assert scorer.taken() == 0
    assert again.rows == first.rows
    assert again.costs == first.costs  # what scoring took then
    assert first.costs["brightness"].seconds_per_score
    more = evaluate(scorer.config(bench[0], "0,5,8", out))
    assert scorer.taken() == 2 * ROWS
    assert [row.position for row in more.rows] == [0, 5, 8, STEPS]
    table = out / "small/brightness.parquet"
    grown = table.read_bytes()
    evaluate(scorer.config(bench[0], "8", out))
    assert scorer.taken() == 0
    assert table.read_bytes() == grown
    evaluate(replace(scorer.config(bench[0], "all", out), fresh=True))
    assert scorer.taken() == 4 * ROWS
    assert table.read_bytes() == grown


def test_weights_are_loaded_before_any_score_and_only_if_there_is_something_to_score(
    bench: tuple[Bench, Quality], tmp_path: Path
) -> None:
    whole, broken = (tmp_path / f"{name}.py" for name in ("whole", "broken"))
    for file in (whole, broken):
        file.write_text(LATE.format(name=file.stem))
    config = EvaluateConfig(bench[0].path, (f"{whole}:whole", f"{broken}:broken"), "5", tmp_path / "out")
    with pytest.raises(NbenchError, match="scorer broken cannot be loaded: OSError: cut short"):
        evaluate(config)
    assert not list(tmp_path.glob("out/**/*.parquet"))  # refused before the first model scored
    only = replace(config, models=config.models[:1])
    first = evaluate(only)
    assert whole.with_suffix(".loaded").read_text() == ".."
    assert evaluate(only).rows == first.rows
    assert whole.with_suffix(".loaded").read_text() == ".."
    evaluate(replace(only, latents="8"))
    assert whole.with_suffix(".loaded").read_text() == "..."


def test_scores_of_a_scorer_that_has_changed_or_of_remade_rows_are_not_taken(
    bench: tuple[Bench, Quality], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scorer = tmp_path / "out", Counted(tmp_path / "one")
    config = scorer.config(bench[0], "5", out)
    evaluate(config)
    before = scorer.file.read_text()
    for text in (before.replace('"1"', '"2"'), before.replace("return ", "return -")):  # or its code alone
        scorer.taken()
        scorer.file.write_text(text)
        evaluate(config, progress=True)
        assert scorer.taken() == 2 * ROWS
        assert "brightness has changed since" in capsys.readouterr().err
    assert (np.array(read_scores(out / "small/brightness.parquet")["score"]) < 0).any()
    info = bench[0].info
    records = tuple(replace(record, sha256="0" * 64) for record in info.shards if record)
    remade = replace(bench[0], info=replace(info, shards=records))  # failed rows were made once more
    store = Store(out / "small/brightness.parquet", remade, _scorer(scorer, remade), ScoreOptions())
    store.scored([5, STEPS])
    assert scorer.taken() == 2 * ROWS
    store.path.write_bytes(b"damaged")
    store.scored([5, STEPS])
    assert scorer.taken() == 2 * ROWS


def test_scores_of_others_of_the_same_name_are_not_replaced(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = Counted(tmp_path / "one"), Counted(tmp_path / "two", fingerprint="2")
    evaluate(first.config(bench[0], "5", out))
    table = out / "small/brightness.parquet"
    before = {path: path.read_bytes() for path in table.parent.iterdir() if path.is_file()}
    twin = make_signals_bench(tmp_path / "elsewhere/small", fingerprint="e" * 8)
    way_out = "give another --out, or --fresh to replace them"
    for config, whose in (
        (second.config(bench[0], "5", out), "another model called brightness"),
        (first.config(twin, "5", out), "another bench called small"),
    ):
        with pytest.raises(NbenchError, match=f"brightness.parquet has the scores of {whose}: {way_out}"):
            evaluate(replace(config, models=("random", *config.models)))
        assert {
            path: path.read_bytes() for path in table.parent.iterdir() if path.is_file()
        } == before  # none of the models is begun
        evaluate(replace(config, fresh=True))
        assert table.read_bytes() != before[table]
        evaluate(replace(first.config(bench[0], "5", out), fresh=True))
        before = {path: path.read_bytes() for path in table.parent.iterdir() if path.is_file()}
    table.unlink()  # what it measured is there
    with pytest.raises(NbenchError, match="another bench called small"):
        evaluate(first.config(twin, "5", out))
    evaluate(Counted(tmp_path / "three").config(bench[0], "5", out))  # the same by another path


def rows_of(info: DatasetInfo, numbers: Sequence[int]) -> TrajectoryBatch:
    """Rows with corrupted captions whose values follow from prompt and candidate."""
    cells = [info.cell(number) for number in numbers]
    draws = [np.random.default_rng(cell) for cell in cells]
    return TrajectoryBatch(
        prompt_ids=[f"p{prompt}" for prompt, _ in cells],
        prompts=[f"prompt {prompt}" for prompt, _ in cells],
        candidates=[candidate for _, candidate in cells],
        seeds=list(numbers),
        tags=[None] * len(cells),
        corruptions=[{"subject": "other", "colour": None, "quantity": None, "background": "b"}] * len(cells),
        errors=[""] * len(cells),
        latents={k: np.stack([draw.random((4, 2, 2)).astype(np.float16) for draw in draws]) for k in info.stored},
        images=np.zeros((len(cells), 8, 8, 3), np.uint8),
    )


def grow(path: Path, prompts: int, candidates: int) -> Bench:
    """A bench of so many prompts and candidates in `path`, built there or extended, with a reference `clip`."""
    spec = {"pipeline": {"name": "x", "content": ""}, "prompts": {"count": prompts}, "candidates": candidates}
    sizes: dict[str, Any] = {
        "latent_shape": (4, 2, 2),
        "image_size": (8, 8),
        "rows_per_shard": 3,
        "steps": 2,
        "stored": (0, 1, 2),
    }
    sizes |= {"n_prompts": prompts, "candidates": candidates}
    new = dataset_info(spec=spec, fingerprint=fingerprint(spec), **sizes)
    folder = DatasetFolder(path)
    if folder.started:
        folder.extend(extended(folder.info, spec))
    else:
        folder.create(new)
    for index in missing(folder):
        writer = shard_writer(path, folder.info, index)
        writer.write(rows_of(folder.info, folder.info.shard_rows(index)))
        commit_shard(folder, index, writer.commit())
    bench = open_bench(path)
    table = score_bench(bench, Brightness(reads="latent"), [2])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(path, "clip"), table, origin)
    return bench


def test_only_the_rows_of_an_extension_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer, table = Counted(tmp_path / "one"), tmp_path / "out/grows/brightness.parquet"
    captions, bench = ScoreOptions(captions=True), grow(tmp_path / "grows", 2, 2)
    evaluate(replace(scorer.config(bench, "1", tmp_path / "out"), options=captions))
    evaluate(scorer.config(bench, "0", tmp_path / "out"))
    evaluate(EvaluateConfig(bench.path, ("random",), "0,1", tmp_path / "out"))
    for prompts, candidates, added in (4, 2, 4), (4, 3, 4):
        bench = grow(tmp_path / "grows", prompts, candidates)
        config = scorer.config(bench, "1", tmp_path / "out")
        scorer.taken()
        assert evaluate(config, progress=True).n_candidates == candidates
        assert scorer.taken() == added * (1 + 2 * 3)  # two positions had the scores of two captions, too
        assert "has changed since" not in capsys.readouterr().err
        at_once = replace(config, latents="0,1", out=tmp_path / f"at-once-{candidates}", options=captions)
        evaluate(at_once)
        fresh = read_scores(tmp_path / f"at-once-{candidates}/grows/brightness.parquet")
        uncaptioned = pc.and_(pc.equal(fresh["position"], 0), pc.not_equal(fresh["caption"], "prompt"))
        assert read_scores(table).equals(fresh.filter(pc.invert(uncaptioned)))
        assert scorer.taken() == 3 * 3 * prompts * candidates
        evaluate(config)
        assert scorer.taken() == 0
    evaluate(EvaluateConfig(bench.path, ("random",), "1", tmp_path / "out"))
    random = read_scores(tmp_path / "out/grows/random.parquet")
    assert random.num_rows == 12 * 3  # free scores of positions that were not asked for have grown, too


def test_an_extension_of_other_rows_is_scored_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer, bench = Counted(tmp_path / "one"), grow(tmp_path / "grows", 2, 2)
    evaluate(scorer.config(bench, "1", tmp_path / "out"))
    records = [replace(bench.info.shards[0], sha256="0" * 64), *bench.info.shards[1:]]  # type: ignore[type-var]
    folder = DatasetFolder(bench.path)  # failed rows were made again in between
    folder.extend(replace(bench.info, shards=tuple(records)))
    bench = grow(bench.path, 3, 2)
    scorer.taken()
    evaluate(scorer.config(bench, "1", tmp_path / "out"), progress=True)
    assert scorer.taken() == 6 * 2
    assert "grows has changed since" in capsys.readouterr().err


def test_scores_by_other_previews_are_not_replaced(signals: Bench, tmp_path: Path) -> None:
    import diffusers

    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    layers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **layers).save_pretrained(tmp_path / "tiny")
    config = EvaluateConfig(signals.path, ("clip",), "0", tmp_path)
    evaluate(config)
    other = replace(config, options=ScoreOptions(preview=f"tiny:{tmp_path / 'tiny'}"))
    with pytest.raises(NbenchError, match="has the scores of other previews or of another VAE: give another --out"):
        evaluate(other)
    evaluate(replace(other, out=tmp_path / "other"))
    evaluate(config)


def _scorer(counted: Counted, bench: Bench):  # type: ignore[no-untyped-def]
    return get_scorer(f"{counted.file}:Brightness", bench.info)


def test_the_reference_itself_gains_all_and_chance_gains_nothing(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    rows = evaluate(EvaluateConfig(bench[0].path, ("oracle", "random"), "0,5", tmp_path)).rows
    assert {(row.model, row.position) for row in rows} == {
        (m, k) for m in ("oracle-clip", "random") for k in (0, 5, 10)
    }
    for row in rows:
        if row.model == "random":
            assert row.recovered_gain_ci is not None
            assert row.recovered_gain_ci[0] < 0 < row.recovered_gain_ci[1]
        else:
            assert (row.recovered_gain, row.oracle_gain, row.regret, row.top1) == (1, 1, 0, 1)
            assert row.spearman == pytest.approx(1)


def test_captions_are_added_to_scores_and_tell_by_kind(signals: Bench, tmp_path: Path) -> None:
    config = EvaluateConfig(signals.path, ("clip",), "0", tmp_path)
    assert evaluate(config).separation == ()
    path = tmp_path / "signals/clip.parquet"
    plain = read_scores(path)
    report = evaluate(replace(config, options=ScoreOptions(captions=True)))
    table = read_scores(path)
    assert len(table) == len(plain) + 4 * 33 * 2  # four kinds of eleven prompts x three, at two positions
    assert table.filter(pc.equal(table["caption"], "prompt"))["score"].to_pylist() == pytest.approx(
        plain["score"].to_pylist(), abs=1e-6
    )
    assert read_result(report.files[0]).separation == report.separation
    screen = Console(file=StringIO(), width=160)
    screen.print(report_table(report))
    assert all(f"{row.auroc:.3f}" in screen.file.getvalue() for row in report.separation)  # type: ignore[attr-defined]
    by_kind = {row.kind: row for row in report.separation if row.position == STEPS}
    assert set(by_kind) == {"all", "subject", "colour", "quantity", "background"}
    last = table.filter(pc.equal(table["position"], STEPS))
    true, wrong = (
        last.filter(pc.equal(last["caption"], caption))["score"].to_numpy() for caption in ("prompt", "colour")
    )
    expected = stats.mannwhitneyu(true, wrong).statistic / (len(true) * len(wrong))
    assert by_kind["colour"].auroc == pytest.approx(expected)
    assert expected > 0.6  # drawn scenes, which CLIP knows
    evaluate(config)
    assert len(read_scores(path)) == len(table)  # what there was is kept
    assert scores_metadata(read_scores(path))["captions_at"] == [0, STEPS]


def test_recall_is_that_of_all_similarities(signals: Bench, tmp_path: Path) -> None:
    config = EvaluateConfig(signals.path, ("clip", "cfg-gap"), "0", tmp_path, retrieval=True)
    report = evaluate(config)
    assert {row.model for row in report.retrieval} == {"clip"}  # the other has no embeddings
    scorer = get_scorer("clip", signals.info)
    prompts = [prompt.prompt for prompt in signals.prompts]
    similar = np.empty((len(prompts), 36))
    for number, prompt in enumerate(prompts):  # scored as if it were the prompt of all
        twin = _OneText(scorer, prompt)
        similar[number] = score_bench(signals, twin, [STEPS])["score"].to_numpy()
    own = np.arange(36) // 3
    rank = (similar > similar[own, np.arange(36)]).sum(0)
    recall = {(row.direction, row.k): row.recall for row in report.retrieval if row.position == STEPS}
    for k in (1, 5, 10):
        assert recall["latent_to_text", k] == pytest.approx((rank < k).mean(), abs=0.03)
    best = np.array([row[own == number].max() for number, row in enumerate(similar)])
    for k in (1, 5, 10):
        assert recall["text_to_latent", k] == pytest.approx(((similar > best[:, None]).sum(1) < k).mean(), abs=0.09)
    again = evaluate(config)
    assert again.retrieval == report.retrieval
    result = json.loads(report.files[0].read_text())
    assert len(result["retrieval"]) == 2 * 2 * 3


class _OneText:
    """A dual encoder that replaces every prompt by one text."""

    name, reads, fingerprint = "one", "preview", "1"

    def __init__(self, scorer, text: str) -> None:  # type: ignore[no-untyped-def]
        self._scorer, self._text = scorer, text

    def embed_text(self, prompts):  # type: ignore[no-untyped-def]
        return self._scorer.embed_text([self._text] * len(prompts))

    def embed_inputs(self, inputs):  # type: ignore[no-untyped-def]
        return self._scorer.embed_inputs(inputs)


def test_two_positions_read_their_columns_alone(
    bench: tuple[Bench, Quality], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, size: int, *, columns: list[str], row_groups: list[int]) -> object:
        read.extend(columns)
        return original(self, size, columns=columns, row_groups=row_groups)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    config = Counted(tmp_path).config(bench[0], "5", tmp_path / "out")
    evaluate(config)
    evaluate(replace(config, latents="0,5"))
    assert {name for name in read if name.startswith("latent") or name == "image"} == {
        "latent_00",
        "latent_05",
        "latent_10",
    }
    assert read.count("latent_05") == read.count("latent_00") > 0  # each once, though 5 is asked for twice


def test_results_are_not_written_into_a_data_set(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    files = sorted(path.name for path in bench[0].path.iterdir())
    with pytest.raises(NbenchError, match="is a data set, into which results would be written"):
        evaluate(EvaluateConfig(bench[0].path, ("random",), "5", bench[0].path.parent))
    assert sorted(path.name for path in bench[0].path.iterdir()) == files


def test_bad_input_is_refused_before_the_work(signals: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = EvaluateConfig(signals.path, ("clip",), "0", tmp_path / "file", fresh=True)
    with pytest.raises(NbenchError, match="cannot write"):
        evaluate(config)
    for text in ("0", "many", "-1"):
        with pytest.raises(NbenchError, match=f"--batch-size {text} is out of range: give auto, or 1 or more"):
            parse_batch_size(text)
    assert (parse_batch_size("auto"), parse_batch_size("7")) == (None, 7)
    with pytest.raises(NbenchError, match="--num-workers -1 is out of range"):
        ScoreOptions(ahead=-1)
    file = tmp_path / "bad.py"
    file.write_text(SCORER.format(fingerprint="1").replace('"brightness"', '"../brightness"'))
    with pytest.raises(NbenchError, match="cannot be the name of a result file"):
        evaluate(replace(config, out=tmp_path, models=(f"{file}:Brightness",)))
