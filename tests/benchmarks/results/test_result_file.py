"""Result files: old formats are read without loss, damaged files give an error of one line."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from nbench import __version__
from nbench.benchmarks.results import provenance
from nbench.benchmarks.results.result_file import EvaluationResult, read_result, write_result
from nbench.errors import NbenchError

V1 = Path(__file__).parent / "historic" / "v1.json"


def test_version_1_is_read_with_every_figure_it_held(tmp_path: Path) -> None:
    content, result = json.loads(V1.read_text()), read_result(V1)
    assert (result.format_version, result.provenance.nbench) == (2, content.pop("nbench_version"))
    read = result.model_dump(mode="json")
    for old, new in zip(
        content.pop("rows") + content.pop("comparisons"), read["rows"] + read["comparisons"], strict=True
    ):
        assert old.items() <= new.items()
    for label, mark in content.pop("yardsticks").items():
        assert mark.items() <= read["yardsticks"][label].items()
    del content["format_version"]
    assert content.items() <= read.items()
    assert (result.rows[0].spearman_ci, result.rows[0].pearson, result.skills) == (None, None, ())
    write_result(tmp_path / "v2.json", result)
    assert read_result(tmp_path / "v2.json") == result


def test_intervals_are_pairs_and_results_do_not_change(tmp_path: Path) -> None:
    result = read_result(V1)
    row = result.rows[0].model_copy(update={"spearman_ci": (-0.5, 0.25)})
    write_result(tmp_path / "new.json", result.model_copy(update={"rows": (row,)}))
    assert json.loads((tmp_path / "new.json").read_text())["rows"][0]["spearman_ci"] == [-0.5, 0.25]
    assert read_result(tmp_path / "new.json").rows == (row,)
    with pytest.raises(ValidationError):
        row.spearman = 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense", '{"format_version": 3}', '{"format_version": 1}', "[" * 100_000, '"\ud800"'],
    ids=["empty", "list", "no fields", "no JSON", "newer", "bare", "deep", "surrogate"],
)
def test_what_is_no_result_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(NbenchError, match="not a result") as caught:
        read_result(tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


def test_unknown_fields_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    content = read_result(V1).model_dump(mode="json")
    (tmp_path / "more.json").write_text(json.dumps(content | {"extra": 1}))
    for path, words in [("more.json", "1 fields differ"), ("none.json", "no result at"), (".", "cannot read")]:
        with pytest.raises(NbenchError, match=words):
            read_result(tmp_path / path)
    with pytest.raises(ValidationError):
        EvaluationResult.model_validate(content | {"format_version": 1})


def test_provenance_names_versions_commit_and_times() -> None:
    origin = provenance.provenance(datetime(2024, 5, 1, 12, tzinfo=UTC), "cpu")
    assert (origin.nbench, origin.device, origin.started) == (__version__, "cpu", "2024-05-01T12:00:00+00:00")
    assert origin.packages["numpy"].count(".") == 2
    assert origin.seconds is not None
    assert origin.seconds > 0


def test_a_folder_inside_a_checkout_has_no_commit_of_its_own(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", tmp_path, *named, *arguments], capture_output=True, text=True).stdout

    assert provenance._commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD").strip()
    assert len(head) == 40
    assert provenance._commit(tmp_path.resolve()) == head
    (tmp_path / "file").write_text("2")
    assert provenance._commit(tmp_path.resolve()) == head + "+"
    (tmp_path / "inner").mkdir()
    assert provenance._commit((tmp_path / "inner").resolve()) is None
