"""nbench plan and build --dry-run: same options, same numbers, and nothing is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from nbench.cli import app

from ..builders.conftest import save_scenes
from ..conftest import Run
from .test_contract import commands

SMALL_BUILD = ["genai-bench", "--limit", "2", "--candidates", "2", "--steps", "4", "--batch-size", "4"]


def test_plan_takes_what_build_takes() -> None:
    by_name = dict(commands(get_command(app)))
    build, plan = (
        {
            option
            for parameter in by_name[f"nbench {name}"].params
            if getattr(parameter, "rich_help_panel", None) != "Workers"
            for option in parameter.opts
        }
        for name in ("build", "plan")
    )
    assert plan == build - {"--dry-run", "--out", "--fresh", "--retry-failed", "--extend"} | {
        "--devices",
        "--price",
        "--timing",
        "--json",
        "--mde",
    }


def test_a_dry_run_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, ["build", *SMALL_BUILD, "--dry-run"])
    assert outcome.exit_code == 0, outcome.output
    assert "4 (2 per prompt)" in outcome.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [[], ["--batch-size", "4", "--limit", "2"]])
def test_the_forward_process_is_timed_by_its_encoder(tmp_path: Path, options: list[str]) -> None:
    images = save_scenes(tmp_path, 3)
    words = ["plan", "ncc", "--process", "forward", "--images", str(images), "--steps", "4", *options]
    outcome = CliRunner().invoke(app, [*words, "--json"])
    assert outcome.exit_code == 0, outcome.output
    plan, rows = json.loads(outcome.stdout), 2 if options else 3
    timing = plan["timing"]
    assert (plan["trajectories"], plan["denoiser_rows"], plan["encoder_rows"]) == (rows, 0, rows + 1)
    assert timing["batch_size"] == (4 if options else 120)  # the batch size of a build: full batches are timed
    assert timing["step_seconds"] == 0
    assert plan["device_hours"] == pytest.approx((rows + 1) * timing["around_seconds"] / timing["batch_size"] / 3600)
    assert plan["device_hours"] > 0
    shown = CliRunner().invoke(app, [*words, "--no-timing"])
    assert f"0 ({rows + 1} images go through the autoencoder's encoder)" in " ".join(shown.output.split())


def test_hours_and_cost_follow_from_the_timing() -> None:
    outcome = CliRunner().invoke(
        app, ["plan", *SMALL_BUILD, "--rows-per-shard", "2", "--devices", "2", "--price", "3", "--json"]
    )
    assert outcome.exit_code == 0, outcome.output
    plan = json.loads(outcome.stdout)
    timing = plan["timing"]
    seconds = (timing["around_seconds"] + 4 * timing["step_seconds"]) / timing["batch_size"]
    assert plan["denoiser_rows"] == (4 + 1) * 4 * 2
    assert plan["device_hours"] == pytest.approx((4 + 1) * seconds / 3600)
    assert plan["hours"] == pytest.approx(plan["device_hours"] / 2)
    assert plan["cost"] == pytest.approx(3 * plan["device_hours"])
    assert seconds > 0


@pytest.mark.parametrize(
    "options",
    [
        ("--steps", "99999999999999"),
        ("--candidates", "99999999999999"),
        ("--height", "99999999999"),
        ("--limit", "9" * 30),
        ("--positions", "0:99999999999999"),
        ("--rows-per-shard", "9" * 30),
    ],
)
def test_numbers_that_no_machine_holds_are_refused_in_one_line(run: Run, options: tuple[str, str]) -> None:
    code, out, err = run("plan", "genai-bench", "--no-timing", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
