"""nbench plan and build --dry-run: the same options, the same numbers, and nothing made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from nbench.cli import app

from ..builders.conftest import save_scenes
from .test_contract import commands

ASKED = ["genai-bench", "--limit", "2", "--candidates", "2", "--steps", "4", "--batch-size", "4"]


def test_plan_takes_what_build_takes() -> None:
    every = dict(commands(get_command(app)))
    build, plan = (
        {option for one in every[f"nbench {name}"].params for option in one.opts} for name in ("build", "plan")
    )
    assert plan == build - {"--dry-run", "--out", "--fresh", "--retry-failed", "--extend"} | {
        "--devices",
        "--price",
        "--timing",
        "--json",
    }


def test_a_dry_run_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["build", *ASKED, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "4 (2 a prompt)" in said.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [[], ["--batch-size", "4", "--limit", "2"]])
def test_the_forward_process_is_timed_by_its_encoder(tmp_path: Path, asked: list[str]) -> None:
    images = save_scenes(tmp_path, 3)
    words = ["plan", "ncc", "--process", "forward", "--images", str(images), "--steps", "4", *asked]
    said = CliRunner().invoke(app, [*words, "--json"])
    assert said.exit_code == 0, said.output
    told, rows = json.loads(said.stdout), 2 if asked else 3
    timing = told["timing"]
    assert (told["trajectories"], told["denoiser_rows"], told["encoder_rows"]) == (rows, 0, rows + 1)
    assert timing["batch_size"] == (4 if asked else 120)  # as a build's, whose full batches are what is timed
    assert timing["step_seconds"] == 0
    assert told["device_hours"] == pytest.approx((rows + 1) * timing["around_seconds"] / timing["batch_size"] / 3600)
    assert told["device_hours"] > 0
    shown = CliRunner().invoke(app, [*words, "--no-timing"])
    assert f"0 ({rows + 1} images go through the autoencoder's encoder)" in " ".join(shown.output.split())


def test_hours_and_cost_follow_from_the_timing() -> None:
    said = CliRunner().invoke(
        app, ["plan", *ASKED, "--rows-per-shard", "2", "--devices", "2", "--price", "3", "--json"]
    )
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    timing = told["timing"]
    seconds = (timing["around_seconds"] + 4 * timing["step_seconds"]) / timing["batch_size"]
    assert told["denoiser_rows"] == (4 + 1) * 4 * 2
    assert told["device_hours"] == pytest.approx((4 + 1) * seconds / 3600)
    assert told["hours"] == pytest.approx(told["device_hours"] / 2)
    assert told["cost"] == pytest.approx(3 * told["device_hours"])
    assert seconds > 0
