"""Tables in batches and as arrays, kinds of captions, lists of ratings, and the tables of a bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbench.benchmarks.results.result_file import EvaluationResult
from nbench.benchmarks.score_tables import files
from nbench.benchmarks.score_tables.bench import bench_layout, final_references, raw_scores
from nbench.benchmarks.score_tables.layout import Layout, by_caption, image_values, of_prompts
from nbench.benchmarks.score_tables.table import RATINGS, ScoreTable, read_score_table
from nbench.errors import NbenchError
from nbench.shards.reader import Bench, open_bench
from nbench.shards.scores import SCORE_SCHEMA, write_scores

from ...small_bench import CANDIDATES, PROMPTS, STEPS, make_bench


def long(rows: int = 500, seed: int = 0) -> pl.DataFrame:
    """Scores of a sparse grid, prompts and candidates in no order, in three captions."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(20 * 7 * 4 * 3)[:rows]
    p, n, k, c = np.unravel_index(cells, (20, 7, 4, 3))
    return pl.DataFrame(
        {
            "prompt_id": [f"p{19 - i}" for i in p],
            "candidate": n * 10**12 + p,
            "position": k * 5,
            "caption": np.array(["colour", "prompt", "count"])[c].tolist(),
            "score": rng.normal(size=rows),
        }
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_batches_make_one_table(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BATCH_ROWS", 7)
    frame, path = long(), tmp_path / f"s.{kind}"
    getattr(frame, {"parquet": "write_parquet", "csv": "write_csv", "jsonl": "write_ndjson"}[kind])(path)
    table = read_score_table(path)
    layout = Layout.grid([table])
    assert layout.shape == (20, frame.group_by("prompt_id").agg(pl.n_unique("candidate"))["candidate"].max())
    arrays = by_caption(table, layout)
    assert set(arrays) == {"prompt", "colour", "count"}
    prompts = sorted(frame["prompt_id"].unique())
    for (kind_of, position), part in frame.partition_by(["caption", "position"], as_dict=True).items():
        expected = np.full(layout.shape, np.nan)
        for row in part.iter_rows(named=True):
            own = frame.filter(pl.col("prompt_id") == row["prompt_id"])["candidate"].unique().sort().to_list()
            expected[prompts.index(row["prompt_id"]), own.index(row["candidate"])] = row["score"]
        np.testing.assert_array_equal(arrays[kind_of][position], expected)
    assert sum(np.isfinite(array).sum() for of in arrays.values() for array in of.values()) == len(frame)


def test_a_column_that_only_later_rows_have_is_missing_in_the_first(tmp_path: Path) -> None:
    row = {"prompt_id": "p", "candidate": 0, "score": 1}
    rows = [row, row | {"candidate": 1, "position": 3}]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(NbenchError, match="row 1 has no position"):
        read_score_table(tmp_path / "s.jsonl")


def test_numbers_are_in_the_order_of_their_values() -> None:
    table = ScoreTable.of(pa.table({"prompt_id": ["10", "9", "9"], "candidate": [7, 10, 9], "score": [1.0, 2, 3]}), "t")
    np.testing.assert_array_equal(image_values(table, Layout.grid([table])), [[3, 2], [1, np.nan]])
    text = ScoreTable.of(pa.table({"prompt_id": ["10", "9", "x"], "candidate": [7, 7, 7], "score": [1.0, 2, 3]}), "t")
    np.testing.assert_array_equal(image_values(text, Layout.grid([text])).ravel(), [1, 2, 3])


def test_ids_that_only_look_like_numbers_stay_apart() -> None:
    ids = ["1", "1.0", "1.50", "007", "v1"]
    table = ScoreTable.of(pa.table({"prompt_id": ["p"] * 5, "model": ids, "score": range(5)}), "t")
    assert table.images["model"].to_pylist() == ids
    whole = ScoreTable.of(pa.table({"prompt_id": ["p"] * 2, "model": ["1.0", "-20"], "score": [0, 1]}), "t")
    assert whole.images["model"].to_pylist() == ["1", "-20"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_lists_of_ratings_count_with_the_mean_of_what_is_there(kind: str, tmp_path: Path) -> None:
    cells: list[Any] = [[1, 2, 4], [3, None, 4], [None, float("nan"), 5], [None], [], None, [float("inf"), 2]]
    ids = [str(number) for number in range(len(cells))]
    if kind == "parquet":
        pq.write_table(pa.table({"prompt_id": ids, "image": ids, "ratings": cells}), tmp_path / "r.parquet")
    elif kind == "csv":
        texts = [json.dumps(cell) for cell in cells]
        pl.DataFrame({"prompt_id": ids, "image": ids, "ratings": texts}).write_csv(tmp_path / "r.csv")
    else:
        rows = ({"prompt_id": n, "image": n, "ratings": cell} for n, cell in zip(ids, cells, strict=True))
        (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    nan = np.nan
    expected = [7 / 3, 3.5, 5, nan, nan, nan, 2]
    np.testing.assert_allclose(read_score_table(tmp_path / f"r.{kind}", RATINGS).scores, expected, rtol=1e-15)


@pytest.mark.parametrize("cell", ['["4"]', "[true]", "[[1, 2]]", "[1", '{"a": 1}', "good"])
def test_odd_ratings_are_refused(cell: str) -> None:
    rows = pa.table({"prompt_id": ["p", "q"], "image": ["1", "1"], "ratings": ["3", cell]})
    with pytest.raises(NbenchError, match=r"r row 2: ratings .* is not a number, or a list of numbers"):
        ScoreTable.of(rows, "r", RATINGS)


def test_more_cells_than_memory_holds_are_refused() -> None:
    n = 20_000
    ids = [f"p{number}" for number in range(n)] + ["p0"] * n
    table = ScoreTable.of(pa.table({"prompt_id": ids, "candidate": range(2 * n), "score": np.zeros(2 * n)}), "t")
    with pytest.raises(NbenchError, match=r"t: 20001 images of one prompt make 400,020,000 cells"):
        Layout.grid([table])
    assert image_values(table, Layout.flat(table, table)).shape == (2 * n,)


def test_unreadable_provenance_is_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt_id": ["p"], "candidate": [0], "score": [1.0]}).replace_schema_metadata({"nbench": "{"})
    pq.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(NbenchError, match="cannot read the provenance of"):
        read_score_table(tmp_path / "s.parquet")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with the reference `clip`."""
    bench, truth = make_bench(tmp_path / "small")
    write_scores(bench.path / "scores/clip.parquet", rows(truth.quality), origin(bench))
    return bench


def rows(values: np.ndarray) -> pa.Table:
    columns = {
        "prompt_id": [f"p{prompt:02d}" for prompt in range(PROMPTS) for _ in range(CANDIDATES)],
        "candidate": list(range(CANDIDATES)) * PROMPTS,
        "position": [STEPS] * values.size,
        "caption": ["prompt"] * values.size,
        "score": values.ravel(),
        "status": ["ok"] * values.size,
    }
    return pa.table(columns, schema=SCORE_SCHEMA)


def origin(bench: Bench) -> dict[str, str]:
    return {"bench_fingerprint": bench.info.fingerprint, "scorer_fingerprint": "1"}


def changed(table: pa.Table, column: str, value: Any) -> pa.Table:
    """The table with another value in the first row."""
    at = table.schema.get_field_index(column)
    cells = pa.array([value, *table[column].to_pylist()[1:]], table.schema.types[at])
    return table.set_column(at, table.schema.field(at), cells)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("candidate", 99, r"has prompt_id p00, candidate 99, position 10, not one of 0\.\.3: run nbench evaluate"),
        ("candidate", -1, "has prompt_id p00, candidate -1, position 10, not one of"),
        ("candidate", None, "row 1 has no candidate"),
        ("candidate", 1, "prompt_id p00, candidate 1, position 10 more than once"),
        ("position", -5, "row 1: position -5 is not a whole number"),
    ],
)
def test_scores_beside_a_result_are_refused_as_those_of_people_are(
    bench: Bench, column: str, value: Any, words: str, tmp_path: Path
) -> None:
    write_scores(tmp_path / "m.parquet", changed(bench.references["clip"], column, value), origin(bench))
    result = EvaluationResult.model_construct(bench_fingerprint=bench.info.fingerprint, model_fingerprint="1")
    with pytest.raises(NbenchError, match=words):
        of_prompts(raw_scores(tmp_path / "m.json", result, bench), bench_layout(bench))


def test_references_of_a_bench_go_to_its_cells(bench: Bench) -> None:
    sound = bench.references["clip"]
    order = np.random.default_rng(0).permutation(len(sound))[3:]
    write_scores(bench.path / "scores/clip.parquet", sound.take(order), origin(bench))
    expected = np.full(len(sound), np.nan)
    expected[order] = sound["score"].to_numpy()[order]
    values = final_references(open_bench(bench.path), bench_layout(bench))["clip"]
    np.testing.assert_array_equal(values, expected.reshape(PROMPTS, CANDIDATES))
    some = Layout.of_bench(["p07", "p01"], CANDIDATES)
    np.testing.assert_array_equal(final_references(open_bench(bench.path), some)["clip"], values[[7, 1]])
