"""Text tables of prompts: quoted and not, cut short, with doubled columns and missing values, against pandas."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbench.builders.prompts.choose import Prompt, read_prompts
from nbench.builders.prompts.text_rows import json_object, separated
from nbench.errors import NbenchError

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=12)


@pytest.mark.slow
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_csv_comes_back_as_pandas_wrote_it(cells: list[tuple[str, str]]) -> None:
    text = pd.DataFrame(cells, columns=["id", "prompt"]).to_csv(index=False)
    header, rows = separated(io.StringIO(text, newline=""), ",", "p.csv")
    assert header == ["id", "prompt"]
    assert [tuple(row) for row in rows] == cells


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_tsv_comes_back_as_it_was_written_in_lines(cells: list[tuple[str, str]]) -> None:
    """Without any quoting, which is how captions are published, unless a whole cell looks quoted."""
    plain = [tuple(cell.replace("\t", " ").replace("\n", " ").replace('"', "'") for cell in row) for row in cells]
    text = "id\tprompt\n" + "".join(f'{one}\t"x{two}\n' for one, two in plain)
    _, rows = separated(io.StringIO(text, newline=""), "\t", "p.tsv")
    assert [tuple(row) for row in rows] == [(one, f'"x{two}') for one, two in plain]


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
@example([("\t\n", "")])
@example([("a\tb", "c\nd"), ("e", 'f"')])
def test_tsv_comes_back_as_pandas_wrote_it_or_is_refused(cells: list[tuple[str, str]]) -> None:
    """Refused where its lines make a table, too."""
    text = pd.DataFrame(cells, columns=["id", "prompt"]).to_csv(index=False, sep="\t")
    lines = [line for line in text.split("\n") if line]
    if len(lines) != 1 + len(cells) and {line.count("\t") for line in lines} == {1}:
        with pytest.raises(NbenchError, match="if quotes span lines: write it as CSV"):
            separated(io.StringIO(text, newline=""), "\t", "p.tsv")
        return
    _, rows = separated(io.StringIO(text, newline=""), "\t", "p.tsv")
    assert [tuple(row) for row in rows] == cells


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", 'id,prompt\n7,"a cat\n8,two\n9,three\n', "line 4: a quote is never closed"),
        ("p.csv", 'id,prompt\n7,"a cat\n8,"two"\n', "line 3: .*double the quotes"),
        ("p.csv", 'id,prompt\n7,"a "big" cat"\n', "line 2: .*double the quotes"),
        ("p.csv", "prompt,prompt\na,b\n", "two columns prompt"),
        ("p.tsv", "prompt\tid\tprompt\na\t1\tb\n", "two columns prompt"),
        ("p.csv", "id,prompt\n7,a cat\n8\n", r"row 2 has fewer cells than the header \(1 of 2\)"),
        ("p.tsv", 'id\tprompt\n7\t"a\n\tcat"\tx\n', "row 2 has more cells than the header"),
        ("p.tsv", 'id\tprompt\n1\t"start\n2\tend"\n', "p.tsv has 2 rows, or 1 if quotes span lines"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}\n', "line 1 has two values prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"', "line 2: not a JSON object"),
    ],
)
def test_what_cannot_be_read_for_sure_is_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(NbenchError, match=words) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_ids_that_are_missing_are_missing_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a", "id": NaN}\n{"prompt": "b", "id": null}\n{"prompt": "c", "id": ""}\n'
    )
    (tmp_path / "p.csv").write_text("prompt,id\na,\nb,\n\nc,\n")
    pd.DataFrame({"prompt": ["a", "b", "c"], "id": [float("nan")] * 3}).to_parquet(tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        assert read_prompts(tmp_path / name) == [Prompt("0", "a"), Prompt("1", "b"), Prompt("2", "c")]


def test_nested_objects_have_each_key_once() -> None:
    assert json_object('{"a": {"b": 1}, "b": 2}', "here") == {"a": {"b": 1}, "b": 2}
    with pytest.raises(NbenchError, match="here has two values b"):
        json_object('{"a": {"b": 1, "b": 2}}', "here")
