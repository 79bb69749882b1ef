"""A bench scored by a scorer in another process that is killed in the middle: nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbench.benchmarks.scoring.options import ScoreOptions
from nbench.benchmarks.scoring.score import score_bench
from nbench.benchmarks.scoring.store import Store
from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench

from ...conftest import Run
from ...small_bench import Quality

STRANGE = Path(__file__).parents[2] / "scorers" / "environments" / "strange.py"


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with as many bytes as processes that will still be killed, each in its second call."""
    monkeypatch.setenv("MORTAL", str(tmp_path / "mortal"))
    return tmp_path / "mortal"


def test_a_worker_killed_in_the_middle_of_a_bench_loses_nothing(
    small_bench: tuple[Bench, Quality], mortal: Path, tmp_path: Path
) -> None:
    bench, _ = small_bench
    expected = score_bench(bench, get_scorer(f"{STRANGE}:Sums", bench.info), [5, 8, 10])
    name = f"python:{sys.executable}:{STRANGE}:Dies"
    mortal.write_bytes(b"x")
    assert score_bench(bench, get_scorer(name, bench.info), [5, 8, 10]).equals(expected)
    assert mortal.read_bytes() == b""


def test_a_scorer_that_ends_twice_loses_no_finished_shard(
    small_bench: tuple[Bench, Quality], mortal: Path, tmp_path: Path
) -> None:
    bench, _ = small_bench
    expected = score_bench(bench, get_scorer(f"{STRANGE}:Sums", bench.info), [10])
    mortal.write_bytes(b"")

    def scored() -> pa.Table:
        scorer = get_scorer(f"python:{sys.executable}:{STRANGE}:Doomed", bench.info)
        store = Store(tmp_path / "scores.parquet", bench, scorer, ScoreOptions(batch_size=30))
        return store.scored([10]).table.replace_schema_metadata()

    with pytest.raises(NbenchError, match="its process ended again: killed by SIGKILL"):
        scored()
    assert scored().equals(expected)  # three shards in two calls each
    assert mortal.stat().st_size == 2 + 1 + 2 + 4  # the first shard, half of the second, two deaths, then the rest


def test_other_commands_take_such_scorers(small_bench: tuple[Bench, Quality], tmp_path: Path, run: Run) -> None:
    import shutil

    bench, _ = small_bench
    copy = tmp_path / "bench"
    shutil.copytree(bench.path, copy)
    name = f"python:{sys.executable}:{STRANGE}:Twin"
    assert run("references", copy, "--add", f"sum={name}").code == 0
    scores = pq.read_table(copy / "scores" / "sum.parquet")
    assert scores.num_rows == bench.info.rows - 1  # one trajectory failed
    assert b"strange.py:Twin" in b"".join((scores.schema.metadata or {}).values())
    assert str(STRANGE.parent).encode() not in b"".join((scores.schema.metadata or {}).values())
    checked = run("models", "check", name, "--bench", copy)
    assert checked.out == "sums: reads preview, nothing wrong\n"
