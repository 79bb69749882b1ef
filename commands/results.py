"""The commands that compare results, rank them, check prompts for leaks, and measure human agreement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..benchmarks.results.place import local_results
from ..console import print_json, print_table, print_text, say
from ..options import Argument, Option
from .configured import AsJson, Wide, command
from .panels import DATA, MEASURE, RESULTS

if TYPE_CHECKING:
    from ..builders.prompts.leakage import LeakReport
    from ..shards.reader import Bench

results_app = typer.Typer()


@command(results_app, panel=RESULTS)
def compare(
    a: Annotated[str, Argument("Result: a file, or MODEL or BENCH/MODEL under --results.")],
    b: Annotated[str, Argument("Result to compare it with.")],
    reference: Annotated[str | None, Option("Reference to compare by. [default: all]")] = None,
    bench: Annotated[
        str | None, Option("Bench with the references: folder, URL or Hub id. [default: data/<its name>]")
    ] = None,
    results: Annotated[Path, Option("Folder or URL with the results.", parse=local_results)] = Path("results"),
    positions: Annotated[bool, Option("Show a line per position.")] = False,
    format: Annotated[str, Option("Output format: table, csv, latex or json.")] = "table",
    yardstick: Annotated[
        str | None, Option("Reference used for final-image selection. [default: that of both results]")
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models: differences paired by prompt, with intervals corrected for the number of positions.

    `nbench compare noisyclip clip --reference vqascore`

    `nbench compare results/small/noisyclip.json results/small/clip.json --bench data/small --positions`

    `nbench compare noisyclip clip --format latex`
    """
    from ..benchmarks.results.compare import compare_results, find_result
    from ..benchmarks.results.formats import COMPARISON_FORMATS, check_format

    check_format(format, ("table", *COMPARISON_FORMATS))
    first, second = find_result(a, results), find_result(b, results)
    comparison = compare_results(first, second, _bench_of(first, bench), reference, yardstick)
    if as_json or format != "table":
        print_text(COMPARISON_FORMATS["json" if as_json else format](comparison))
        return
    from ..benchmarks.results.terminal import comparison_table, digest_table

    print_table((comparison_table if positions else digest_table)(comparison), wide)
    if comparison.note:
        say(comparison.note, error=True)


@command(results_app, panel=RESULTS)
def leaderboard(
    folder: Annotated[Path, Argument("Folder or URL with the results.", parse=local_results)] = Path("results"),
    format: Annotated[str, Option("Output format: table, md, csv, latex or json.")] = "table",
    sort: Annotated[str, Option("Metric to sort by: spearman, recovered_gain, best_of_n, ...")] = "spearman",
    position: Annotated[
        int | None, Option("Position to compare at. [default: half of T, or the nearest position that all models have]")
    ] = None,
    reference: Annotated[str | None, Option("Reference to compare by. [default: vqascore, else the first]")] = None,
    bench: Annotated[str | None, Option("Bench to show. [default: all]")] = None,
    yardstick: Annotated[
        str | None,
        Option("Show only results with final-image selection by this reference. [default: clip, else the first]"),
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """List all evaluated models, best first, with a random pick and the best possible selection as baselines.

    `nbench leaderboard --sort recovered_gain --position 20`

    `nbench leaderboard results --format md`
    """
    from ..benchmarks.results.formats import BOARD_FORMATS, check_format
    from ..benchmarks.results.leaderboard import leaderboard

    check_format(format, ("table", *BOARD_FORMATS))
    board = leaderboard(folder, sort, position, reference, bench, yardstick)
    for reason in board.left_out:
        say(f"left out: {reason}", error=True)
    for note in board.notes:
        say(note, error=True)
    if as_json or format != "table":
        print_text(BOARD_FORMATS["json" if as_json else format](board))
        return
    from ..benchmarks.results.terminal import board_tables

    print_table(board_tables(board, wide), wide)


@command(results_app, panel=RESULTS, no_args_is_help=True)
def submit(
    results: Annotated[Path, Argument("Folder or URL with the results, or one result file.", parse=local_results)],
    to: Annotated[str, Option("Leaderboard: a data set on the Hub, user/name.", required=True)],
    dry_run: Annotated[bool, Option("Check the results and list the files, but send nothing.")] = False,
) -> None:
    """Propose results to a leaderboard on the Hub, as a pull request; their figures are checked first.

    `nbench submit results/small --to user/leaderboard --dry-run`
    """
    from ..benchmarks.results.submit import read_submission
    from ..benchmarks.results.submit import submit as propose

    submission = read_submission(results)
    if dry_run:
        for file in submission.files:
            say(f"{file.bytes:>12,}  {file.path}")
        say(f"{submission.title}: nothing is sent")
        return
    say(propose(submission, to))


@command(results_app, "check-leak", panel=DATA)
def check_leak(
    train: Annotated[str, Argument("Training set: a data set, or prompts as `nbench build --prompts` takes them.")],
    bench: Annotated[str, Argument("Bench: a data set or prompts, likewise.")],
    threshold: Annotated[float, Option("Lowest Jaccard similarity of near duplicates.")] = 0.8,
    show: Annotated[int, Option("Maximum number of leaks to show, closest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find prompts of a bench in a training set: exact, normalised and near duplicates; exit code 1 if any exist.

    `nbench check-leak data/ncc data/noisy-genai-bench`

    `nbench check-leak captions.jsonl genai-bench --threshold 0.7`
    """
    from ..builders.prompts.leakage import captions_of
    from ..builders.prompts.leakage import check_leak as check
    from ..errors import NbenchError, check_range

    check_range("--show", show, 0)
    if train == bench == "-":
        raise NbenchError("standard input cannot be both the training set and the bench: name a file for one of them")
    report = check(captions_of(train), captions_of(bench), threshold)
    _print_leaks(report, show, as_json)
    raise typer.Exit(1 if report.leaks else 0)


@command(results_app, panel=MEASURE)
def agreement(
    scores: Annotated[str, Argument("Table of scores (Parquet, CSV, JSONL), or the name of a reference of the bench.")],
    ratings: Annotated[
        Path | None,
        Argument("Table of ratings. [default: those of --bench]", parse=local_results),
    ] = None,
    bench: Annotated[str | None, Option("Bench with the scored images: folder, URL or Hub id.")] = None,
    tags: Annotated[
        Path | None, Option("Skills: JSON (skill: prompt ids) or prompts with tags. [default: the bench's]")
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Measure how scores agree with human ratings of the same images: over all images, within prompts and by skill.

    `nbench agreement scores.csv ratings.csv --tags genai_skills.json`

    `nbench agreement vqascore --bench data/genai-bench-images`
    """
    from ..benchmarks.human_agreement import bench_skills, human_agreement, open_inputs, read_skills
    from ..shards.reader import open_bench

    opened = open_bench(bench) if bench is not None else None
    score_table, rating_table = open_inputs(scores, ratings, opened)
    skills = read_skills(tags) if tags is not None else bench_skills(opened) if opened is not None else {}
    result = human_agreement(score_table, rating_table, skills)
    if as_json:
        print_json(result.to_json())
        return
    from ..benchmarks.results.terminal import agreement_table

    print_table(agreement_table(result, wide), wide)


def _bench_of(result: Path, name: str | None) -> Bench | None:
    """The bench `name`; without a name the result's bench under data/, if it exists."""
    from ..benchmarks.results.result_file import read_result
    from ..shards.dataset import INFO_FILE
    from ..shards.reader import open_bench

    if name is not None:
        return open_bench(name)
    default = Path("data") / Path(read_result(result).bench).name
    return open_bench(default) if (default / INFO_FILE).exists() else None


def _print_leaks(report: LeakReport, show: int, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        leaks = [asdict(leak) for leak in report.leaks[:show]]
        print(json.dumps({**asdict(report), "counts": report.counts(), "leaks": leaks}))
        return
    for leak in report.leaks[:show]:
        prompt = leak.prompt_id if leak.caption == "prompt" else f"{leak.prompt_id} ({leak.caption} corruption)"
        source = f"{leak.count} x, first {leak.train_id} {leak.train_text!r}"
        say(f"{leak.kind} {leak.similarity:.2f}: {prompt} {leak.text!r} <- {source}")
    counts = report.counts()
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("exact", "normalised", "near"))
    say(
        f"{report.n_train} captions against {report.n_prompts} prompts: {kinds}; "
        f"{counts['corruption']} of {report.n_corruptions} corruptions"
    )
