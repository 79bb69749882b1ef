"""Reference tables that do not fit their data set are refused in one line; sound ones count row by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nbench.errors import NbenchError
from nbench.shards.reader import Bench, open_bench
from nbench.shards.references import finished_scores
from nbench.shards.scores import SCORE_SCHEMA, reference_path, write_scores
from nbench.shards.verify import verify

from ..small_bench import CANDIDATES, PROMPTS, STEPS, make_bench

ROWS = PROMPTS * CANDIDATES
ORIGIN = {"scorer": "clip", "scorer_fingerprint": "s", "bench_fingerprint": "f" * 8}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path / "bench")[0]


def sound() -> pa.Table:
    columns = {
        "prompt_id": [f"p{row // CANDIDATES:02d}" for row in range(ROWS)],
        "candidate": [row % CANDIDATES for row in range(ROWS)],
        "position": [STEPS] * ROWS,
        "caption": ["prompt"] * ROWS,
        "score": np.arange(ROWS) / ROWS,
        "status": ["ok"] * ROWS,
    }
    return pa.table(columns, schema=SCORE_SCHEMA)


def put(table: pa.Table, column: str, value: object) -> pa.Table:
    """The first cell of a column is `value`."""
    place = table.schema.get_field_index(column)
    cells = pa.array([value, *table[column].to_pylist()[1:]], SCORE_SCHEMA.field(column).type)
    return table.set_column(place, SCORE_SCHEMA.field(column), cells)


def test_rows_of_the_finished_images_by_their_prompts(bench: Bench) -> None:
    early = put(sound(), "position", 5).slice(0, 1)
    wrong = put(sound(), "caption", "colour").slice(0, 1)
    write_scores(reference_path(bench.path, "clip"), pa.concat_tables([sound(), early, wrong]), ORIGIN)
    assert finished_scores(open_bench(bench.path), "clip").to_pydict() == sound().to_pydict()
    write_scores(reference_path(bench.path, "clip"), sound().slice(3), ORIGIN)  # some have no score: that is no flaw
    assert len(finished_scores(open_bench(bench.path), "clip")) == ROWS - 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: put(table, "candidate", CANDIDATES), "candidate 4, which is not in the data set"),
        (lambda table: put(table, "candidate", -1), "candidate -1, which is not in the data set"),
        (lambda table: put(table, "prompt_id", "p99"), "it has prompt_id p99, candidate 0, which is not in"),
        (
            lambda table: put(table, "prompt_id", "a\x1b[31m"),
            r"it has prompt_id a\\x1b\[31m, candidate 0, which is not in",
        ),
        (lambda table: put(table, "candidate", 1), "it has prompt_id p00, candidate 1 more than once"),
        (lambda table: put(table, "candidate", None), "column candidate has empty cells"),
        (lambda table: put(table, "prompt_id", None), "column prompt_id has empty cells"),
        (lambda table: put(table, "position", None), "column position has empty cells"),
        (lambda table: put(table, "position", 5).slice(0, 1), "no scores of the finished images, at position 10"),
    ],
)
def test_rows_that_do_not_fit(bench: Bench, change: Callable[[pa.Table], pa.Table], reason: str) -> None:
    write_scores(reference_path(bench.path, "clip"), change(sound()), ORIGIN)
    with pytest.raises(NbenchError, match=reason) as refused:
        finished_scores(open_bench(bench.path), "clip")
    assert f"nbench references {bench.path} --add NAME=SCORER --replace" in str(refused.value)
    assert "\n" not in str(refused.value)
    if "no scores" not in reason:
        assert "clip" in "".join(defect.what for defect in verify(bench.path).defects)


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ({**ORIGIN, "bench_fingerprint": "other"}, "it scores another build"),
        ({"scorer": "clip", "bench_fingerprint": "f" * 8}, "does not state its build and scorer"),
        ({**ORIGIN, "scorer_fingerprint": 7}, "does not state its build and scorer"),
        ({}, "does not state its build and scorer"),
    ],
)
def test_tables_of_unknown_origin(bench: Bench, origin: dict[str, object], reason: str) -> None:
    write_scores(reference_path(bench.path, "clip"), sound(), json.loads(json.dumps(origin)))
    with pytest.raises(NbenchError, match=reason):
        finished_scores(open_bench(bench.path), "clip")


def test_what_is_not_there(bench: Bench) -> None:
    with pytest.raises(
        NbenchError, match=rf"no reference clip in .*: it has none; nbench references {bench.path} --add"
    ):
        finished_scores(bench, "clip")
