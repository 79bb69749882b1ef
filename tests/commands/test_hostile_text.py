"""What a terminal, a markup parser, a browser or a spreadsheet could obey is shown as text, by every command that shows
text from data sets, results and files."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbench import cli
from nbench.benchmarks.scoring.card import score_metadata
from nbench.benchmarks.scoring.score import score_bench
from nbench.scorers.registry import get_scorer
from nbench.shards.dataset import DatasetFolder
from nbench.shards.reader import open_bench
from nbench.shards.schema import CORRUPTION_KINDS, PreviewMap, TrajectoryBatch
from nbench.shards.scores import reference_path, write_scores

from ..conftest import Run
from ..dataset_info import build, dataset_info

CONTROL = "\x1b[31m\x1b]0;title\x07\x9b2J\r\x08\u202e\u2066\u200b\ud83d"
TEXT = f"=1+1[red]x[/nope]<b>&:smile:|`$x_${CONTROL}".replace("\ud83d", "")
SILENT = {
    *("build", "plan", "corrupt", "import noisyclip-pt", "sample", "env", "serve", "serve-scorer", "models new"),
    *("import sglang", "import vllm-omni", "import generic"),
    *("train noisyclip", "train latentclip", "train x0-vqa", "train probe"),
    *("train noise-prior", "train stack"),
}
"""They show no text of others, apart from errors and the notes and progress of `BuildProgress`, tested below."""
OF_OUR_OWN = {"pipelines", "models show"}
"""They show tables that nbench brings along, and the names of plug-ins."""


def commands() -> set[str]:
    """The names of all commands."""
    import typer

    def names(group: Any, above: str) -> set[str]:
        found = set()
        for name, command in group.commands.items():
            full = f"{above} {name}".strip()
            found |= names(command, full) if hasattr(command, "commands") else {full}
        return found

    return names(typer.main.get_command(cli.app), "")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench named by hostile text wherever a name is free, with references, and results with such names."""
    root = tmp_path_factory.mktemp("hostile")
    info = dataset_info(
        n_prompts=4, candidates=3, steps=2, rows_per_shard=12, stored=(0, 1, 2), latent_shape=(4, 4, 4),
        image_size=(8, 8),
        spec={"pipeline": {"name": TEXT, "content": ""}}, preview=PreviewMap(((1, 0, 0, 0),) * 3, (0, 0, 0)),
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def batch(numbers: range) -> list[TrajectoryBatch]:
        count = len(numbers)
        return [
            TrajectoryBatch(
                prompt_ids=[f"{TEXT}{number // 3}" for number in numbers],
                prompts=[f"{TEXT}{number // 3}" for number in numbers],
                candidates=[number % 3 for number in numbers],
                seeds=list(numbers),
                tags=[{"basic": [TEXT], "advanced": []}] * count,
                corruptions=[dict.fromkeys(CORRUPTION_KINDS, TEXT)] * count,
                errors=[""] * count,
                latents={k: rng.normal(size=(count, 4, 4, 4)).astype(np.float16) for k in info.stored},
                images=rng.integers(0, 255, (count, 8, 8, 3), np.uint8),
            )
        ]

    path = build(root / "bench", info, batch)
    bench = open_bench(path)
    (root / "own.py").write_text(
        "class Own:\n    name, reads, fingerprint = 'own', 'latent', '1'\n"
        "    def score(self, inputs, prompts): return inputs.flatten(1).mean(1)\n"
    )
    scorer = get_scorer(f"{root / 'own.py'}:Own", info)
    origin = score_metadata(info, scorer) | {"model": TEXT, "scorer_fingerprint": TEXT}
    for name in ("clip", "human"):
        write_scores(reference_path(path, name), score_bench(bench, scorer, [2]), origin)
    rated = [{"prompt_id": f"{TEXT}{n // 3}", "image": n % 3, "score": n * n % 7} for n in range(12)]
    (root / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    (root / "captions.jsonl").write_text(json.dumps({"id": TEXT, "prompt": f"{TEXT}1"}) + "\n")
    return root


def broken(root: Path) -> Path:
    """The bench with another file in the place of its shard."""
    import shutil

    folder = root / "broken"
    if not folder.exists():
        shutil.copytree(root / "bench", folder)
        info = open_bench(folder).info
        data_set = DatasetFolder(folder)
        from dataclasses import replace

        data_set.extend(replace(info, spec=info.spec | {"seed": 3}))
    return folder


def renamed(root: Path) -> Path:
    """Results with hostile names of models, benches and references."""
    folder = root / "renamed"
    for name in ("own", "random"):
        content = (root / "results/bench" / f"{name}.json").read_text()
        for word in (name, "bench", "clip"):
            content = content.replace(f'"{word}"', json.dumps(TEXT + word).encode().decode())
            content = content.replace('"' + json.dumps(TEXT)[1:-1] + 'bench":', '"bench":')
        (folder / "x").mkdir(parents=True, exist_ok=True)
        (folder / "x" / f"{name}.json").write_text(content)
    (folder / "bad\x1b[31m.json").write_text("{}")
    return folder


WALK: dict[str, Callable[[Path], list[list[object]]]] = {
    "evaluate": lambda root: [
        ["--model", f"{root / 'own.py'}:Own", "--model", "random", "--bench", root / "bench", "--latents", "0,1",
         "--out", root / "results", "--captions", "--device", "cpu", "--plot", root / "plot.png"],
    ],
    "inspect": lambda root: [[root / "bench"], [root / "bench", "--row", f"{TEXT}0/0", "--sheet", root / "s.png"]],
    "verify": lambda root: [[broken(root)], [broken(root), "--json"]],
    "diff": lambda root: [[*pair, *more] for more in ([], ["--json"])
                          for pair in ([root / "bench", broken(root)],
                                       [renamed(root) / "x/own.json", root / "results/bench/own.json"])],
    "references": lambda root: [[root / "bench"], [root / "bench", "--json"]],
    "convert": lambda root: [[root / "bench", root / "tars\x1b[31m", "--format", "webdataset"]],
    "publish": lambda root: [[root / "bench", "user/name", "--dry-run"]],
    "leaderboard": lambda root: [[renamed(root), *more]
                                 for more in ([], ["--format", "md"], ["--format", "csv"], ["--json"])],
    "compare": lambda root: [["own", "random", "--results", root / "results", *more, "--bench", root / "bench"]
                             for more in ([], ["--positions"], ["--json"])],
    "check-leak": lambda root: [[root / "captions.jsonl", root / "bench", *more] for more in ([], ["--json"])],
    "agreement": lambda root: [[root / "rated.jsonl", root / "rated.jsonl", "--tags", tags(root), *more]
                               for more in ([], ["--json"])],
    "metrics": lambda root: [[root / "results/bench/own.parquet", root / "bench/scores/clip.parquet", *more]
                             for more in ([], ["--json"])],
    "replay": lambda root: [["1:2", root / "results/bench/own.parquet", root / "bench/scores/clip.parquet", "--n", 3]],
    "tune": lambda root: [[root / "results/bench/own.parquet", root / "bench/scores/clip.parquet", "--budget", 0.9,
                          "--n", 3, "--folds", 2]],
    "report": lambda root: [[root / "results/bench", "--bench", root / "bench", "--out", root / "page\x1b[31m"]],
    "submit": lambda root: [[root / "results/bench", "--to", "user/leaderboard", "--dry-run"]],
    "status": lambda root: [[root / "bench"], [root / "bench", "--json"]],
    "merge": lambda root: [[root / "bench"]],
    "models check": lambda root: [[f"{root / 'own.py'}:Own", "--bench", root / "bench", "--device", "cpu"]],
}  # fmt: skip


def tags(root: Path) -> Path:
    path = root / "tags.json"
    path.write_text(json.dumps({TEXT: [f"{TEXT}{n}" for n in range(4)]}))
    return path


def unsafe(text: str) -> list[str]:
    """Characters that are obeyed or that change how others are shown."""
    return [
        char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    ]


def test_no_command_prints_what_a_terminal_obeys(run: Run, hostile: Path) -> None:
    assert commands() == {*WALK, *SILENT, *OF_OUR_OWN}
    shown = ""
    for command, calls in WALK.items():
        for arguments in calls(hostile):
            code, out, err = run(*command.split(), *arguments)
            assert "Traceback" not in err, command
            assert code in (0, 1), (command, err)
            assert unsafe(out + err) == [], command
            if "--json" in arguments:
                json.loads(out)
            shown += out
    assert "[red]x[/nope]<b>&:smile:" in shown
    page = (hostile / "page\x1b[31m/index.html").read_text()
    assert unsafe(page.partition('id="data"')[2].partition("</script>")[0]) == []


def test_a_spreadsheet_calculates_nothing(run: Run, hostile: Path) -> None:
    if not (hostile / "results").exists():
        run("evaluate", *WALK["evaluate"](hostile)[0])
    rows = list(csv.DictReader(io.StringIO(run("leaderboard", renamed(hostile), "--format", "csv")[1])))
    assert rows
    for row in rows:
        assert row["model"].startswith(("'=1+1", "(")), row
        assert row["bench"].startswith("'=1+1")
        float(row["spearman"] or 0)


def test_notes_of_a_long_run_and_errors_are_text(capfd: pytest.CaptureFixture[str], run: Run, tmp_path: Path) -> None:
    from nbench.progress import BuildProgress

    with BuildProgress(TEXT, 10) as progress:
        progress.say(TEXT)
        progress.advance(10)
    assert unsafe(capfd.readouterr().err) == []
    code, _, err = run("inspect", tmp_path / TEXT.replace("/", ""))
    assert code == 2
    assert unsafe(err) == []
    path = tmp_path / "p.csv"
    path.write_bytes(f"id,prompt\n{TEXT},\n".encode())
    code, _, err = run("build", "genai-bench", "--prompts", path, "--out", tmp_path / "out")
    assert code == 2
    assert unsafe(err) == []
