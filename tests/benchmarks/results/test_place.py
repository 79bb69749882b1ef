"""Results in a bucket are read as those in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import nbench
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.scoring.score import score_bench
from nbench.jobs.places import store_at
from nbench.shards.reader import Bench
from nbench.shards.scores import reference_path, write_scores

from ...conftest import Run
from ...s3_servers import S3Folder
from ...small_bench import STEPS, make_bench
from ..scoring.test_score import Brightness


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Path]:
    """A bench, and the folder with the results of two scorers."""
    folder = tmp_path_factory.mktemp("place")
    bench, _ = make_bench(folder / "small")
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), score_bench(bench, Brightness(reads="image"), [STEPS]), origin)
    brightness = Brightness()
    evaluate(EvaluateConfig(bench.path, ("random",), "0,5", folder / "results"), objects=[brightness])
    return bench, folder / "results"


@pytest.fixture
def url(evaluated: tuple[Bench, Path], s3: S3Folder) -> str:
    """The same results in a bucket, with what an unfinished evaluation leaves."""
    _, results = evaluated
    store = store_at(f"{s3.url}/results")
    for path in results.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(results).as_posix(), path.read_bytes())
    store.write("small/.clip.parts/records/0/0.json", b"not a result")
    return f"{s3.url}/results"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "compare brightness random --results RESULTS --bench BENCH --json",
        "compare RESULTS/small/brightness.json RESULTS/small/random.json --json",
        "leaderboard RESULTS --json",
        "metrics RESULTS/small/brightness.parquet RESULTS/small/random.parquet --json",
        "replay 5:2 --n 4 --bench BENCH --model brightness --results RESULTS --json",
        "tune --bench BENCH --model brightness --results RESULTS --n 4 --budget 0.8 --out OUT/policy.json --json",
        "diff RESULTS FOLDER --json",
        "diff RESULTS/small/random.json FOLDER/small/random.json --json",
        "report RESULTS --prompts 0 --out OUT",
        "report RESULTS/small/random.json --prompts 0 --out OUT",
    ],
)
def test_every_reader_of_results_reads_them_at_a_url(
    evaluated: tuple[Bench, Path], url: str, run: Run, tmp_path: Path, command: str
) -> None:
    bench, results = evaluated
    written = []
    for name, place in (("local", str(results)), ("url", url)):
        out = tmp_path / name
        out.mkdir()
        words = command.replace("RESULTS", place).replace("FOLDER", str(results)).replace("BENCH", str(bench.path))
        done = run(*words.replace("OUT", str(out)).split())
        assert done.code == 0, done.err
        shown = "" if command.startswith("report") else done.out.replace(place, "").replace(str(results), "")
        written.append((shown.replace(str(out), ""), [path.read_bytes() for path in sorted(out.iterdir())]))
    assert written[0] == written[1]


def test_what_is_no_results_is_refused(evaluated: tuple[Bench, Path], url: str, run: Run, s3: S3Folder) -> None:
    store_at(f"{s3.url}/bench").write("dataset.json", b"{}")
    for place, message in (
        (f"{s3.url}/none", f"no results at {s3.url}/none"),
        (f"{url}/small/other.json", f"nothing at {url}/small/other.json"),
        (f"{s3.url}/bench", f"{s3.url}/bench is a data set, not results"),
    ):
        done = run("leaderboard", place)
        assert (done.code, done.out) == (2, "")
        assert message in done.err.replace("\n", " ")


def test_functions_take_urls_too(evaluated: tuple[Bench, Path], url: str) -> None:
    _, results = evaluated
    assert nbench.leaderboard(url).lines == nbench.leaderboard(results).lines
    assert nbench.compare("brightness", "random", results=url) == nbench.compare(
        "brightness", "random", results=results
    )
