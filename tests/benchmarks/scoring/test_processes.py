"""Evaluations by several processes, killed ones among them: scores are those of one, and none is lost."""

import json
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nbench.benchmarks.evaluate import evaluate, score_share
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.errors import NbenchError
from nbench.jobs.options import EngineOptions
from nbench.jobs.places import beneath, store_at
from nbench.jobs.status import at_work
from nbench.shards.reader import Bench

from ...forked import Program
from ...s3_servers import S3Folder
from ...small_bench import Quality
from .counted_scorer import LATE, ROWS, Counted


def started(config: EvaluateConfig, *more: str, variables: Mapping[str, str] | None = None) -> Program:
    """A process of its own that does what `evaluate(config)` does in this one."""
    values = {"--bench": config.bench, "--model": config.models[0], "--latents": config.latents, "--out": config.out}
    options = [str(word) for option in values.items() for word in option]
    program = "from nbench.cli import main; main()"
    return Program(program, "evaluate", "--device", "cpu", *options, *more, variables=variables)


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_and_leaves_the_same_bytes(
    bench: tuple[Bench, Quality], tmp_path: Path
) -> None:
    whole, killed = Counted(tmp_path / "whole"), Counted(tmp_path / "killed")
    evaluate(whole.config(bench[0], "0,5", tmp_path / "a"))
    assert whole.taken() == 3 * ROWS
    config = killed.config(bench[0], "0,5", tmp_path / "b")
    done = started(config, variables={"KILL_AFTER": "4"}).ended()
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "b/small/brightness.parquet").exists()
    assert [path.name for path in (tmp_path / "b/small/.brightness.parts").glob("*.parquet")] == ["00000.parquet"]
    before = killed.taken()
    assert before > 3 * 59
    rest = started(config, "--json").ended()
    assert rest.returncode == 0, rest.stderr
    assert killed.taken() == 3 * (ROWS - 59)  # the first shard has 60 rows, one of which failed
    assert "scoring brightness: " in rest.stderr
    assert json.loads(rest.stdout)["rows"][0]["n_scored"] == ROWS
    one, other = (tmp_path / name / "small/brightness.parquet" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "b/small/.brightness.parts").exists()


@pytest.fixture
def waiting(bench: tuple[Bench, Quality], tmp_path: Path) -> Iterator[tuple[Program, Path]]:
    """An evaluation in the middle of its scores, which goes on when a file is there, and that file."""
    go = tmp_path / "go"
    config = Counted(tmp_path / "waiting").config(bench[0], "0,5", tmp_path / "out")
    program = started(config, variables={"WAIT_FOR": str(go)})
    while not Path(f"{go}.waits").exists():
        assert program.process.is_alive(), program.ended().stderr
        time.sleep(0.01)
    yield program, go
    program.process.kill()
    program.ended()


@pytest.mark.slow
def test_evaluations_of_the_same_share_the_shards_and_others_are_refused(
    bench: tuple[Bench, Quality], waiting: tuple[Program, Path], tmp_path: Path
) -> None:
    first, go = waiting
    other = Counted(tmp_path / "other")
    same = other.config(bench[0], "0,5", tmp_path / "out")
    for config in (replace(same, latents="5"), replace(same, fresh=True)):
        with pytest.raises(NbenchError, match=r"is writing to .*brightness.parts: wait for it to end"):
            evaluate(config)
    assert other.taken() == 0  # nothing was scored in vain
    evaluate(replace(same, models=("random",)))  # a table of its own
    joined = started(same)
    while not (
        tmp_path / "out/small/.brightness.parts/00002.parquet"
    ).exists():  # the joined one is at the other shards
        assert joined.process.is_alive()
        time.sleep(0.01)
    go.touch()
    assert (first.ended().returncode, joined.ended().returncode) == (0, 0)
    table = tmp_path / "out/small/brightness.parquet"
    evaluate(replace(same, out=tmp_path / "calm"))
    assert table.read_bytes() == (tmp_path / "calm/small/brightness.parquet").read_bytes()
    assert {path.name for path in table.parent.iterdir() if path.is_file()} == {
        f"{model}.{kind}" for model in ("brightness", "random") for kind in ("parquet", "json")
    }


@pytest.mark.slow
def test_the_lock_of_a_killed_evaluation_blocks_nobody(
    bench: tuple[Bench, Quality], waiting: tuple[Program, Path], tmp_path: Path
) -> None:
    program, _ = waiting
    program.process.kill()
    program.process.join()
    assert (tmp_path / "out/small/.brightness.parts").is_dir()
    evaluate(Counted(tmp_path / "other").config(bench[0], "5", tmp_path / "out"))
    assert not (tmp_path / "out/small/.brightness.parts").exists()


@pytest.mark.slow
def test_three_at_once_all_end_well(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    config = Counted(tmp_path / "mine").config(bench[0], "0,5", tmp_path / "out")
    ended = [program.ended() for program in [started(config) for _ in range(3)]]
    assert [(done.stderr * done.returncode, done.returncode) for done in ended] == [("", 0)] * 3
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


@pytest.mark.slow
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
    done = started(config, variables=s3.environment | {"KILL_AFTER": "4"}).ended()
    assert done.returncode == -signal.SIGKILL
    assert scorer.taken() > 3 * 59
    assert started(config, variables=s3.environment).ended().returncode == 0
    assert scorer.taken() == 3 * (ROWS - 59)
