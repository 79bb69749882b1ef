"""The same score table in any format gives the same figures in every command, and the same errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

from nbench.cli import app
from nbench.errors import NbenchError

P, N, POSITIONS, FINAL = 12, 3, (2, 4, 6), 6
COMMANDS = {
    "metrics": ("metrics", "{s}", "{r}"),
    "replay": ("replay", "2:2,4:1", "{s}", "{r}", "--n", "3"),
    "tune": ("tune", "{s}", "{r}", "--n", "3", "--folds", "2", "--budget", "0.8"),
    "agreement": ("agreement", "{s}", "{r}"),
}
Frames = tuple[pd.DataFrame, pd.DataFrame]


def frames(seed: int = 0) -> Frames:
    """Scores of P x N images at three positions, and a reference of each image; candidates are seeds."""
    rng = np.random.default_rng(seed)
    reference = rng.random((P, N))
    rows = [
        (f"p{p:02d}", p * 100 + n, k, float(reference[p, n] + rng.normal(0, 0.5)))
        for p in range(P)
        for n in range(N)
        for k in POSITIONS
    ]
    scores = pd.DataFrame(rows, columns=["prompt_id", "candidate", "position", "score"])
    finals = scores[scores.position == FINAL].drop(columns=["position"]).reset_index(drop=True)
    return scores, finals.assign(score=reference.ravel())


def run(command: str, scores: Path, reference: Path) -> Any:
    """The JSON that a command prints; its error is raised."""
    result = CliRunner().invoke(
        app, [part.format(s=scores, r=reference) for part in COMMANDS[command]] + ["--json"], catch_exceptions=True
    )
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def parquet(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def arrow(frame: pd.DataFrame, path: Path, nan_is_null: bool) -> Path:
    columns = {name: pa.array(frame[name].tolist(), from_pandas=nan_is_null) for name in frame}
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def csv(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path.with_suffix(".csv"), index=False)
    return path.with_suffix(".csv")


def tsv(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path.with_suffix(".tsv"), index=False, sep="\t")
    return path.with_suffix(".tsv")


def jsonl(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_json(path.with_suffix(".jsonl"), orient="records", lines=True, double_precision=15)
    return path.with_suffix(".jsonl")


def polars_csv(frame: pd.DataFrame, path: Path) -> Path:
    pl.from_pandas(frame).write_csv(path.with_suffix(".csv"), quote_style="always")
    return path.with_suffix(".csv")


def other_ending(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path.with_suffix(".pq"))
    return path.with_suffix(".pq")


def mixed_jsonl(frame: pd.DataFrame, path: Path) -> Path:
    """Ids are numbers in one row and text in the next."""
    rows = frame.to_dict("records")
    lines = [json.dumps(row | {"candidate": str(row["candidate"])} if n % 2 else row) for n, row in enumerate(rows)]
    path.with_suffix(".jsonl").write_text("\n\n".join(lines))
    return path.with_suffix(".jsonl")


def as_type(**types: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.astype({name: kind for name, kind in types.items() if name in frame})


def decimals(frame: pd.DataFrame, path: Path) -> Path:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    column = table["candidate"].cast(pa.decimal128(24, 2))
    pq.write_table(table.set_column(1, "candidate", column), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def captioned(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(caption=[f'a "text", of\n{name}' for name in frame.prompt_id])


FORMS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], Callable[[pd.DataFrame, Path], Path]]] = {
    "csv": (lambda frame: frame, csv),
    "csv, all quoted": (lambda frame: frame, polars_csv),
    "tsv": (lambda frame: frame, tsv),
    "jsonl": (lambda frame: frame, jsonl),
    "jsonl, mixed ids": (lambda frame: frame, mixed_jsonl),
    "parquet of another ending": (lambda frame: frame, other_ending),
    "shuffled": (lambda frame: frame.sample(frac=1, random_state=1), parquet),
    "text candidates": (as_type(candidate="str"), parquet),
    "floats": (as_type(candidate="float64", position="float64"), parquet),
    "floats in csv": (as_type(candidate="float64", position="float64"), csv),
    "text positions": (as_type(position="str"), parquet),
    "text floats as positions": (lambda frame: as_type(position="str")(as_type(position="float64")(frame)), parquet),
    "text scores": (lambda frame: frame.assign(score=[repr(float(score)) for score in frame.score]), parquet),
    "categories": (as_type(prompt_id="category", candidate="category"), parquet),
    "unsigned": (as_type(candidate="uint64", position="uint8"), parquet),
    "decimals": (lambda frame: frame, decimals),
    "own captions": (captioned, parquet),
    "own captions in csv": (captioned, csv),
    "another column called image": (lambda frame: frame.assign(image=[[0, 1]] * len(frame)), parquet),
    "a column of models, with gaps": (lambda frame: frame.assign(model=["m", None] * (len(frame) // 2)), csv),
    "status": (lambda frame: frame.assign(status="ok"), parquet),
}


def same(actual: Any, expected: Any) -> None:
    """Equal, numbers within 1e-9."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            same(actual[name], expected[name])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            same(*pair)
    else:
        assert actual == (pytest.approx(expected, abs=1e-9) if isinstance(expected, float) else expected)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The output of each command for the plain Parquet tables."""
    folder = tmp_path_factory.mktemp("plain")
    scores, reference = frames()
    paths = parquet(scores, folder / "s"), parquet(reference, folder / "r")
    return {command: run(command, *paths) for command in COMMANDS}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_in_every_command(form: str, plain: dict[str, Any], tmp_path: Path) -> None:
    change, write = FORMS[form]
    scores, reference = frames()
    paths = write(change(scores), tmp_path / "s"), write(change(reference), tmp_path / "r")
    for command, expected in plain.items():
        same(run(command, *paths), expected)
    (tmp_path / "plain").mkdir()
    same(run("replay", paths[0], parquet(reference, tmp_path / "plain/r")), plain["replay"])  # the other as it was


def test_figures_are_those_of_polars_and_scipy(plain: dict[str, Any]) -> None:
    scores, reference = map(pl.from_pandas, frames())
    joined = scores.join(reference.rename({"score": "truth"}), on=["prompt_id", "candidate"])
    for k in POSITIONS:
        here = joined.filter(pl.col("position") == k)
        rho = [stats.spearmanr(part["score"], part["truth"]).statistic for part in here.partition_by("prompt_id")]
        row = next(row for row in plain["metrics"]["rows"] if row["position"] == k)
        assert row["spearman"] == pytest.approx(np.mean(rho), abs=1e-9)
        row = next(r for r in plain["agreement"]["rows"] if (r["position"], r["scope"]) == (k, "overall"))
        assert row["kendall"] == pytest.approx(stats.kendalltau(here["score"], here["truth"]).statistic, abs=1e-9)
    wide = joined.pivot(on="position", index=["prompt_id", "candidate", "truth"], values="score")
    chosen = [
        part.sort("2", descending=True).head(2).sort("4", descending=True)["truth"][0]
        for part in wide.partition_by("prompt_id")
    ]
    policy = plain["replay"]["rows"][0]
    assert policy["selected"]["value"] == pytest.approx(np.mean(chosen), abs=1e-9)
    assert plain["replay"]["n_prompts"] == P


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["null", "nan", "inf", "blank", "failed", "absent"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_that_is_not_there_is_left_out_however_it_is_written(
    command: str, missing: str, tmp_path: Path
) -> None:
    scores, reference = frames()
    gone = [0, 4, 17]  # no prompt loses more than one
    whole = run(command, parquet(scores, tmp_path / "s"), parquet(reference, tmp_path / "r"))
    expected = run(command, parquet(scores.drop(gone), tmp_path / "s"), tmp_path / "r.parquet")
    changed = scores.copy()
    if missing == "absent":
        path = csv(changed.drop(gone), tmp_path / "s")
    elif missing == "failed":
        path = parquet(changed.assign(status=["failed" if n in gone else "ok" for n in changed.index]), tmp_path / "s")
    elif missing == "blank":
        changed.loc[gone, "score"] = np.nan
        path = csv(changed, tmp_path / "s")
    else:
        changed.loc[gone, "score"] = np.inf if missing == "inf" else np.nan
        path = arrow(changed, tmp_path / "s", missing == "null")
        assert pq.read_table(path)["score"].null_count == (3 if missing == "null" else 0)
    content = run(command, path, tmp_path / "r.parquet")
    same(content, expected)
    assert content != whole


def damaged(scores: pd.DataFrame, change: str) -> pd.DataFrame:
    row = scores.loc[4].to_dict()
    frames = {
        "duplicate": lambda: pd.concat([scores, scores.loc[[4]]]),
        "duplicate of another type": lambda: pd.concat(
            [scores.astype({"candidate": "str"}), pd.DataFrame([row]).assign(candidate=f"{row['candidate']} ")]
        ),
        "null candidate": lambda: scores.astype({"candidate": "Int64"}).assign(
            candidate=scores.candidate.astype("Int64").where(scores.index != 4)
        ),
        "nan candidate": lambda: scores.assign(candidate=scores.candidate.astype(float).where(scores.index != 4)),
        "null prompt": lambda: scores.assign(prompt_id=scores.prompt_id.where(scores.index != 4)),
        "blank prompt": lambda: scores.assign(prompt_id=scores.prompt_id.where(scores.index != 4, " ")),
        "null position": lambda: scores.assign(position=scores.position.astype(float).where(scores.index != 4)),
        "half position": lambda: scores.assign(position=scores.position.where(scores.index != 4, 2.5)),
        "negative position": lambda: scores.assign(position=scores.position.where(scores.index != 4, -1)),
        "huge position": lambda: scores.assign(position=scores.position.astype(float).where(scores.index != 4, 1e300)),
        "words as positions": lambda: scores.assign(position="late"),
        "half candidate": lambda: scores.assign(candidate=scores.candidate + 0.5),
        "boolean candidates": lambda: scores.assign(candidate=True),
        "lists as candidates": lambda: scores.assign(candidate=[[n] for n in scores.candidate]),
        "words as scores": lambda: scores.assign(score="high"),
        "one word as score": lambda: scores.assign(score=[*map(str, scores.score[:-1]), "high"]),
        "boolean scores": lambda: scores.assign(score=scores.score > 0),
        "lists as scores": lambda: scores.assign(score=[[score] for score in scores.score]),
        "no score": lambda: scores.drop(columns="score"),
        "no candidate": lambda: scores.drop(columns="candidate"),
        "no prompt_id": lambda: scores.drop(columns="prompt_id"),
        "no rows": lambda: scores.iloc[:0],
        "other ids": lambda: scores.assign(prompt_id="x" + scores.prompt_id),
        "kinds and a null caption": lambda: scores.assign(caption=["prompt"] * (len(scores) - 1) + [None]),
    }
    return frames[change]()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("duplicate", "prompt_id p00, candidate 1, position 4 more than once"),
        ("duplicate of another type", "prompt_id p00, candidate 1, position 4 more than once"),
        ("null candidate", "row 5 has no candidate"),
        ("nan candidate", "row 5 has no candidate"),
        ("null prompt", "row 5 has no prompt_id"),
        ("blank prompt", "row 5 has no prompt_id"),
        ("null position", "row 5 has no position"),
        ("half position", "row 5: position 2.5 is not a whole number"),
        ("negative position", "row 5: position -1 is not a whole number"),
        ("huge position", "row 5: position 1e.300 is not a whole number"),
        ("words as positions", "row 1: position 'late' is not a number"),
        ("half candidate", "column candidate has numbers that are not whole"),
        ("boolean candidates", "column candidate is of type bool"),
        ("lists as candidates", "column candidate is of type list"),
        ("words as scores", "row 1: score 'high' is not a number"),
        ("one word as score", f"row {P * N * 3}: score 'high' is not a number"),
        ("boolean scores", "column score is of type bool"),
        ("lists as scores", "column score is of type list"),
        ("no score", "has no column score"),
        ("no candidate", "has no column candidate or image or model"),
        ("no prompt_id", "has no column prompt_id"),
        ("no rows", "has no rows"),
        ("other ids", "no image has a value in both tables .*xp00.*p00"),
        ("kinds and a null caption", f"row {P * N * 3} has no caption"),
    ],
)
def test_what_cannot_be_right_is_refused_alike(change: str, words: str, tmp_path: Path) -> None:
    scores, reference = frames()
    table = damaged(scores, change)
    arrow(table, tmp_path / "s", change != "nan candidate")
    truth = parquet(reference, tmp_path / "r")
    messages = set()
    for command in COMMANDS:
        with pytest.raises(NbenchError, match=words) as caught:
            run(command, tmp_path / "s.parquet", truth)
        assert "\n" not in str(caught.value)
        messages.add(str(caught.value))
    assert len(messages) == 1


@pytest.mark.parametrize("change", ["duplicate", "null candidate", "no candidate", "words as scores", "no rows"])
def test_references_are_refused_as_scores_are(change: str, tmp_path: Path) -> None:
    scores, reference = frames()
    damaged(reference, change).to_parquet(tmp_path / "r.parquet")
    for command in COMMANDS:
        with pytest.raises(NbenchError, match=r"r\.parquet"):
            run(command, parquet(scores, tmp_path / "s"), tmp_path / "r.parquet")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("s.csv", 'prompt_id,candidate,position,score\np,0,1,"0.5\np,1,1,0.2\n', "quote is never closed"),
        ("s.csv", "prompt_id,candidate,position,score,score\np,0,1,0.5,0.2\n", "two columns score"),
        ("s.tsv", "prompt_id\tcandidate\tposition\tscore\tscore\np\t0\t1\t0.5\t0.2\n", "two columns score"),
        ("s.csv", "prompt_id,candidate,position,score\np,0,1\n", "row 1 has fewer cells than the header"),
        ("s.csv", "prompt_id,candidate,position,score\np,0,1,0,5\n", "row 1 has more cells than the header"),
        ("s.tsv", "prompt_id\tcandidate\tposition\tscore\np\n0\t0\t1\t1\n", "row 1 has fewer cells"),
        ("s.jsonl", '{"prompt_id": "p", "score": 1, "score": 2}\n', "line 1 has two values score"),
        ("s.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("s.csv", "", "has no column prompt_id"),
        ("s.jsonl", "", "has no rows"),
        ("s.parquet", "no Parquet", "cannot read"),
        ("s.txt", "no Parquet", "ends in neither"),
        ("none.csv", None, "no file at"),
        ("none.parquet", None, "no file at"),
    ],
)
def test_files_that_cannot_be_read_for_sure_are_refused_alike(
    name: str, text: str | None, words: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    truth, messages = parquet(frames()[1], tmp_path / "r"), set()
    for command in COMMANDS:
        with pytest.raises(NbenchError, match=words) as caught:
            run(command, tmp_path / name, truth)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_images_may_be_told_apart_by_a_name(plain: dict[str, Any], tmp_path: Path) -> None:
    scores, reference = (frame.rename(columns={"candidate": "image"}) for frame in frames())
    paths = csv(scores, tmp_path / "s"), csv(reference, tmp_path / "r")
    for command, expected in plain.items():
        same(run(command, *paths), expected)
    csv(frames()[1].rename(columns={"candidate": "model"}), tmp_path / "r")
    with pytest.raises(NbenchError, match=r"no column tells images apart in both tables .*image.*model"):
        run("metrics", *paths)


@pytest.mark.parametrize("command", ["metrics", "replay", "tune"])
def test_a_reference_of_another_final_position_is_refused(command: str, tmp_path: Path) -> None:
    scores, reference = frames()
    early = parquet(scores[scores.position < FINAL], tmp_path / "s")
    truth = parquet(reference.assign(position=FINAL), tmp_path / "r")
    content = run(command, early, truth)
    assert content.get("final_position", content.get("steps", content.get("in_sample", {}).get("steps"))) == FINAL
    parquet(reference.assign(position=FINAL - 1), tmp_path / "r")
    with pytest.raises(NbenchError, match="ends at position 5, the runs at 6"):
        run(command, parquet(scores, tmp_path / "s"), truth)


@pytest.mark.parametrize("column", ["rating", "ratings"])
def test_ratings_are_a_reference_of_every_command(column: str, plain: dict[str, Any], tmp_path: Path) -> None:
    scores, reference = frames()
    spread = reference.assign(**{column: [[s - 1, None, s + 1] for s in reference.score]}).drop(columns="score")
    for command, expected in plain.items():
        same(run(command, parquet(scores, tmp_path / "s"), jsonl(spread, tmp_path / "r")), expected)


@pytest.mark.parametrize("caption", ["prompt", "colour"])
def test_rows_that_a_policy_does_not_use_are_checked_too(caption: str, tmp_path: Path) -> None:
    scores, reference = frames()
    scores = pd.concat([scores.assign(caption="prompt"), scores.assign(caption="colour")])
    twice = scores[(scores.position == 4) & (scores.caption == caption)].iloc[[1]]
    paths = parquet(pd.concat([scores, twice]), tmp_path / "s"), parquet(reference, tmp_path / "r")
    for command in (*COMMANDS.values(), ("replay", "2:1", "{s}", "{r}", "--n", "3")):
        arguments = [part.format(s=paths[0], r=paths[1]) for part in command]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, NbenchError), command
        assert "prompt_id p00, candidate 1, position 4 more than once" in str(result.exception)
