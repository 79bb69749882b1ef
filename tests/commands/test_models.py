"""`nbench models` on a terminal of 80 columns, and its page on one scorer."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nbench.cli import app
from nbench.errors import NbenchError
from nbench.scorers.listing import list_models


def output(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.stdout


def test_the_table_fits_80_columns_and_cuts_nothing() -> None:
    lines = output().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    for row in list_models():
        (line,) = [line for line in lines if line.startswith(f"{row['name']} ")]
        assert row["reads"] in line or ":" in row["name"]
        assert row["size"] in line
    assert len(lines) < 2 * len(list_models())  # most scorers take one line


def test_what_is_said_of_one_scorer() -> None:
    rows = {row["name"]: row for row in list_models()}
    assert json.loads(output("show", "vqascore", "--json")) == rows["vqascore"]  # itself, not the family of its name
    assert json.loads(output("show", "probe", "--json")) == rows["probe:folder"]
    shown = output("show", "x0-image")
    assert all(value in shown for value in rows["x0-image"].values())
    with pytest.raises(NbenchError, match=r"unknown scorer vqascor \(did you mean vqascore\?\)"):
        output("show", "vqascor")


def test_json_has_all_of_all() -> None:
    rows = json.loads(output("--json"))
    assert rows == list_models()
    own = [row for row in rows if row["about"] != "a plug-in"]
    assert [row["name"] for row in own if not (row["reads"] and row["range"])] == []
    assert {row["name"] for row in rows if not (row["paper"] or row["about"])} == {"random", "oracle", "truth"}
