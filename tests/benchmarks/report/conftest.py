"""Results of the small bench with hostile prompts and model names."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbench.benchmarks import evaluate as module
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.metrics.rows import SeparationRow, SkillRow
from nbench.benchmarks.results.result_file import read_result, write_result
from nbench.benchmarks.scoring.score import score_bench
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.shards.scores import reference_path, write_scores

from ...small_bench import STEPS, make_bench
from ..scoring.test_score import Brightness

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 2'>",
    '"><svg onload=window.hacked=3> & &lt;b&gt; <!--',
    "ends \u2028 with \u202e $data $scripts ${title} \\u003c/script>",
)
"""The first prompts."""


def safe(text: str) -> str:
    """As the page shows it: what ends a line or turns the direction of text is escaped."""
    return text.replace("\u2028", r"\u2028").replace("\u202e", r"\u202e")


MODEL = "<img src=x onerror='window.hacked = 4'>"


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench, _ = make_bench(tmp_path_factory.mktemp("report") / "small", HOSTILE)
    table = score_bench(bench, Brightness(reads="image"), [STEPS])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), table, origin)
    return bench


@pytest.fixture(scope="session")
def results(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `random` and `brightness`, whose name is `MODEL` and which has skills and corrupted captions."""
    scorers = {"brightness": Brightness()}
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_scorer", lambda name, *more: scorers.get(name) or get_scorer(name, *more))
        evaluate(EvaluateConfig(bench.path, ("random", "brightness"), "0,5", out))
    path = out / "small" / "brightness.json"
    result = read_result(path)
    skills = [
        SkillRow(model=MODEL, position=k, reference="clip", level="basic", skill=s, n_prompts=9, spearman=v,
                 spearman_ci=(v - 0.1, v + 0.1), recovered_gain=v)
        for s in ("counting", "<b>colour</b>") for k, v in ((0, 0.0), (5, 0.5), (STEPS, 0.9))
    ]  # fmt: skip
    separation = [
        SeparationRow(model=MODEL, position=5, kind=kind, auroc=0.7, auroc_ci=(0.6, 0.8), average_precision=0.7,
                      pairwise_accuracy=0.75, n_pairs=40)
        for kind in ("all", "order")
    ]  # fmt: skip
    rows = tuple(row.model_copy(update={"model": MODEL}) for row in result.rows)
    more = {"model": MODEL, "rows": rows, "skills": tuple(skills), "separation": tuple(separation)}
    write_result(path, result.model_copy(update=more))
    return out / "small"
