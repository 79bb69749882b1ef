"""Agreement with human ratings: figures by hand and by scipy, the join, skills, and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from nbench.benchmarks.human_agreement import HumanAgreement, bench_skills, human_agreement, open_inputs, read_skills
from nbench.benchmarks.score_tables.table import RATINGS, ScoreTable, read_score_table
from nbench.errors import NbenchError
from nbench.shards.reader import Bench, open_bench
from nbench.shards.scores import write_scores

from ..small_bench import CANDIDATES, PROMPTS, STEPS, Quality, make_bench

MODELS = ["DALLE_3", "SDXL_Base"]


@pytest.fixture
def skills(tmp_path: Path) -> dict[str, frozenset[str]]:
    """Skills in the format of GenAI-Bench."""
    path = tmp_path / "skills.json"
    path.write_text(json.dumps({"counting": [0, 3, 4], "basic": [1, 2, 5], "all": [0], "unused": [77]}))
    return read_skills(path)


def tables(n_prompts: int = 6, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Scores, shuffled, and three raters' ratings of two models' images."""
    rng = np.random.default_rng(seed)
    ids = [f"{number:05d}" for number in range(n_prompts) for _ in MODELS]
    ratings = rng.integers(1, 6, (len(ids), 3))
    scores = ratings.mean(1) + rng.normal(0, 1, len(ids))
    rated = pa.table({"prompt_id": ids, "model": MODELS * n_prompts, "ratings": ratings.tolist()})
    scored = pa.table({"prompt_id": ids, "model": MODELS * n_prompts, "score": scores})
    return scored.take(rng.permutation(len(ids))), rated


def agreement(scores: pa.Table, ratings: pa.Table, skills: dict[str, frozenset[str]] | None = None) -> HumanAgreement:
    return human_agreement(ScoreTable.of(scores, "scores"), ScoreTable.of(ratings, "ratings", RATINGS), skills)


def test_overall_is_over_all_images_and_within_a_mean_over_prompts() -> None:
    scores, ratings = tables(n_prompts=30)
    overall, within = agreement(scores, ratings).rows
    mean_ratings = {(row["prompt_id"], row["model"]): np.mean(row["ratings"]) for row in ratings.to_pylist()}
    x = [row["score"] for row in scores.to_pylist()]
    y = [mean_ratings[row["prompt_id"], row["model"]] for row in scores.to_pylist()]
    assert (overall.scope, overall.skill, overall.position, overall.n_images) == ("overall", "all", None, 60)
    assert overall.pearson == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert overall.kendall == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9)
    assert overall.kendall is not None
    assert overall.kendall_ci is not None
    assert overall.kendall_ci[0] <= overall.kendall <= overall.kendall_ci[1]
    by_prompt: dict[str, list[tuple[float, float]]] = {}
    for row, score, rating in zip(scores.to_pylist(), x, y, strict=True):
        by_prompt.setdefault(row["prompt_id"], []).append((score, rating))
    signs = [np.sign((a[0] - b[0]) * (a[1] - b[1])) for a, b in by_prompt.values()]
    assert within.scope == "within"
    assert within.kendall == pytest.approx(np.mean([sign for sign in signs if sign]))
    assert within.n_prompts == 30


def test_a_hand_counted_example() -> None:
    scores = pa.table({"prompt_id": ["a", "a", "b"], "candidate": [0, 1, 0], "score": [0.5, 0.52, 0.9]})
    ratings = pa.table({"prompt_id": ["a", "a", "b"], "candidate": [0, 1, 0], "rating": [2, 2, 5]})
    overall, within = agreement(scores, ratings).rows
    assert overall.pairwise_accuracy == 1  # the two that people rate alike are tied within 0.02
    assert overall.tie_threshold == pytest.approx(0.02)
    assert overall.kendall == pytest.approx(2 / np.sqrt(3 * 2))
    assert (within.pairwise_accuracy, within.kendall, within.pearson) == (1, None, None)


def test_each_position_and_skill_has_its_rows(skills: dict[str, frozenset[str]]) -> None:
    scores, ratings = tables()
    later = scores.append_column("position", [[20] * 12])
    early = later.set_column(3, "position", [[10] * 12]).set_column(2, "score", [list(range(12))])
    agreed = agreement(pa.concat_tables([later, early.cast(later.schema)]), ratings, skills)
    assert [(row.position, row.scope, row.skill) for row in agreed.rows] == [
        (position, scope, skill)
        for position in (10, 20)
        for scope in ("overall", "within")
        for skill in ("all", "basic", "counting")
    ]
    plain = agreement(scores, ratings).rows[0]
    assert replace(agreed.rows[6], position=None) == plain
    some = [row for row in scores.to_pylist() if int(row["prompt_id"]) in (0, 3, 4)]
    alone = agreement(pa.Table.from_pylist(some), ratings).rows[0]
    counting = agreed.rows[8]
    assert (counting.n_prompts, counting.n_images) == (3, 6)
    assert (counting.kendall, counting.pearson) == pytest.approx((alone.kendall, alone.pearson), abs=1e-9)
    assert json.loads(agreed.to_json())["rows"][8]["skill"] == "counting"


def test_missing_scores_are_counted_and_other_captions_left_out() -> None:
    scores, ratings = tables()
    captioned = scores.slice(2).append_column("caption", [["prompt"] * 10])
    corrupt = scores.append_column("caption", [["colour"] * 12])
    agreed = agreement(pa.concat_tables([captioned, corrupt]), ratings)
    assert (agreed.n_rated, agreed.n_scored, agreed.rows[0].n_images) == (12, 10, 10)


def test_files_of_every_kind_give_the_same(tmp_path: Path) -> None:
    scores, ratings = tables()
    pq.write_table(scores, tmp_path / "scores.parquet")
    (tmp_path / "scores.jsonl").write_text("\n".join(json.dumps(row) for row in scores.to_pylist()))
    lines = [f'{row["prompt_id"]},{row["model"]},"{row["ratings"]}"' for row in ratings.to_pylist()]
    (tmp_path / "ratings.csv").write_text("\n".join(["prompt_id,model,ratings", *lines]))
    expected = agreement(scores, ratings)
    for name in ("scores.parquet", "scores.jsonl"):
        assert human_agreement(*open_inputs(str(tmp_path / name), tmp_path / "ratings.csv", None)) == expected


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench of published images with ratings, and scores of them at two positions."""
    bench, truth = make_bench(tmp_path_factory.mktemp("rated") / "photos")
    info = replace(bench.info, spec=bench.info.spec | {"process": "forward"})
    (bench.path / "dataset.json").write_bytes(info.to_json())
    rating = np.nan_to_num(truth.quality * 5, nan=1).round()
    for name, values, position in (("human", rating, STEPS), ("clip", truth.noisy, STEPS)):
        table = {
            "prompt_id": [f"p{prompt:02d}" for prompt in range(PROMPTS) for _ in range(CANDIDATES)],
            "candidate": list(range(CANDIDATES)) * PROMPTS,
            "position": [position] * rating.size,
            "caption": ["prompt"] * rating.size,
            "score": values.ravel(),
            "status": ["ok"] * rating.size,
        }
        write_scores(
            bench.path / f"scores/{name}.parquet",
            pa.table(table),
            {"bench_fingerprint": "f" * 8, "scorer_fingerprint": "1"},
        )
    return bench.path


def test_a_bench_of_published_images_carries_its_ratings(rated: Path) -> None:
    bench = open_bench(rated)
    agreed = human_agreement(*open_inputs("clip", None, bench), bench_skills(bench))
    assert [(row.position, row.scope) for row in agreed.rows] == [(STEPS, "overall"), (STEPS, "within")]
    assert agreed.rows[0].pearson is not None
    assert 0.3 < agreed.rows[0].pearson < 1
    same = human_agreement(*open_inputs(str(rated / "scores/clip.parquet"), None, bench))
    assert same == agreed


def test_generated_images_and_other_builds_are_refused(rated: Path, small_bench: tuple[Bench, Quality]) -> None:
    with pytest.raises(NbenchError, match="generated images, which nobody rated"):
        open_inputs("clip", None, small_bench[0])
    with pytest.raises(NbenchError, match="give it with --bench"):
        open_inputs(str(rated / "scores/clip.parquet"), rated / "scores/human.parquet", None)
    bench = open_bench(rated)
    with pytest.raises(NbenchError, match="no reference blip in"):
        open_inputs("blip", None, bench)
    other = replace(bench, info=replace(bench.info, fingerprint="e" * 8))
    with pytest.raises(NbenchError, match="another build"):
        open_inputs("clip", None, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": {"prompt_id": ["x"], "model": ["m"], "score": [1.0]}}, "no image has a value in both"),
        ({"scores": {"prompt_id": ["x"], "model": ["m"]}}, "scores has no column score"),
        ({"scores": {"prompt_id": ["x"], "score": [1.0]}}, "no column candidate or image or model"),
        (
            {"scores": {"prompt_id": ["a", "a"], "model": ["m", "m"], "score": [1.0, 2.0]}},
            "prompt_id a, model m more than",
        ),
        ({"scores": {"prompt_id": ["a"], "model": ["m"], "score": ["high"]}}, "row 1: score 'high' is not a number"),
        ({"scores": {"prompt_id": ["a"], "model": ["m"], "score": [1.0], "position": [0.5]}}, "not a whole number"),
        ({"scores": {"prompt_id": [None], "model": ["m"], "score": [1.0]}}, "row 1 has no prompt_id"),
        ({"ratings": {"prompt_id": ["a"], "model": ["m"]}}, "no column rating or ratings or score"),
        ({"ratings": {"prompt_id": ["a"], "rating": [3]}}, "no column candidate or image or model"),
        ({"ratings": {"prompt_id": ["a"], "model": ["m"], "ratings": [[]]}}, "has no rating"),
        (
            {"ratings": {"prompt_id": ["a"], "model": ["m"], "ratings": ["good"]}},
            "row 1: ratings 'good' is not",
        ),
        (
            {"ratings": {"prompt_id": ["a", "a"], "model": ["m", "m"], "rating": [1, 2]}},
            "more than once",
        ),
    ],
)
def test_bad_tables_are_refused(change: dict[str, dict[str, list[object]]], words: str) -> None:
    good = {
        "scores": {"prompt_id": ["a"], "model": ["m"], "score": [1.0]},
        "ratings": {"prompt_id": ["a"], "model": ["m"], "rating": [3]},
    }
    with pytest.raises(NbenchError, match=words):
        agreement(*(pa.table(content) for content in (good | change).values()))


def test_bad_files_and_tags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1nonsense")
    (tmp_path / "bad.json").write_text("[1]")
    for name, words in (("bad.parquet", "cannot read"), ("none.csv", "no file at"), ("bad.json", "ends in neither")):
        with pytest.raises(NbenchError, match=words):
            read_score_table(tmp_path / name)
    with pytest.raises(NbenchError, match="has no skills"):
        read_skills(tmp_path / "bad.json")
    with pytest.raises(NbenchError, match=r"no rated prompt has a skill.*'00000' in the ratings, '77'"):
        agreement(*tables(), {"counting": frozenset(["77"])})
    pq.write_table(tables()[0], tmp_path / "scores.parquet")
    with pytest.raises(NbenchError, match="no ratings: give a table"):
        open_inputs(str(tmp_path / "scores.parquet"), None, None)
