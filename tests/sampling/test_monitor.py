"""The monitor scores each position of any call of a pipeline, and leaves the pipeline unchanged."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import nbench
from nbench.errors import NbenchError
from nbench.pipelines.noise_levels import NoiseLevels
from nbench.sampling.monitor import AlignmentMonitor, RunStopped, sparkline

from ..tiny_pipelines import Family
from .live import PROMPT, STEPS, Mean, opened, plain, signals_at, state

SEEDS = [5, 6]


def test_scores_of_every_position_and_the_same_images(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    full, signals = plain(pipe, SEEDS, arguments), signals_at(pipe, SEEDS, arguments)
    before = state(pipe)
    with AlignmentMonitor(pipe, Mean(), PROMPT) as monitor:
        assert torch.equal(plain(pipe, SEEDS, arguments), full)
    assert sorted(monitor.scores) == list(range(1, STEPS + 1))
    for position, scores in monitor.scores.items():
        assert scores == pytest.approx(signals[position].flatten(1).mean(1).tolist(), abs=1e-6)
    assert state(pipe) == before


def test_a_function_is_a_scorer(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    signals = signals_at(pipe, SEEDS, arguments, "x0")
    with AlignmentMonitor(pipe, lambda inputs, _: inputs.flatten(1).mean(1), PROMPT, reads="x0") as monitor:
        plain(pipe, SEEDS, arguments)
    assert sorted(monitor.scores) == sorted(signals)
    for position, scores in monitor.scores.items():
        assert scores == pytest.approx(signals[position].flatten(1).mean(1).tolist(), abs=1e-6)


def test_only_what_is_scored_is_computed(sd15_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, arguments = opened(sd15_folder)
    estimated, estimate = list[int](), NoiseLevels.x0

    def counted(levels: NoiseLevels, position: int, *tensors: torch.Tensor) -> torch.Tensor:
        estimated.append(position)
        return estimate(levels, position, *tensors)

    monkeypatch.setattr(NoiseLevels, "x0", counted)
    for reads, positions, expected in (("x0", [1, 3], [1, 3]), ("x0", (), []), ("latent", None, [])):
        estimated.clear()
        with AlignmentMonitor(pipe, Mean(reads), PROMPT, positions=positions) as monitor:
            plain(pipe, SEEDS, arguments)
        assert estimated == expected
        assert list(monitor.scores) == (list(range(1, STEPS + 1)) if positions is None else list(positions))


def test_a_batch_of_different_prompts_each_with_several_images() -> None:
    pipe, arguments = opened("shapes")
    prompts = ["one red circle", "four blue squares"]
    arguments |= {"num_images_per_prompt": 2, "output_type": "latent"}
    with nbench.AlignmentMonitor(pipe, "noisyclip", prompts, positions=[3, STEPS]) as monitor:
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        pipe(prompts, generator=generators, **arguments)
    assert [len(scores) for scores in monitor.scores.values()] == [4, 4]
    with AlignmentMonitor(pipe, "noisyclip", prompts[::-1], positions=[3]) as turned:
        pipe(prompts, generator=[torch.Generator().manual_seed(i) for i in range(4)], **arguments)
    assert turned.scores[3] != monitor.scores[3]
    with AlignmentMonitor(pipe, "noisyclip", prompts[0], positions=[3]) as alone:
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        pipe(prompts[0], generator=generators, **arguments)
    assert alone.scores[3] == pytest.approx(monitor.scores[3][:2], abs=1e-4)


def test_callback_log_and_line(sd15_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe, arguments = opened(sd15_folder)
    reports: list[tuple[int, list[float]]] = []
    path = tmp_path / "scores.jsonl"
    with AlignmentMonitor(
        pipe, Mean(), PROMPT, callback=lambda *report: reports.append(report), show=True, log=path
    ) as monitor:
        plain(pipe, SEEDS, arguments)
    assert dict(reports) == monitor.scores
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["position"], line["scores"]) for line in lines] == reports
    assert {line["steps"] for line in lines} == {STEPS}
    drawn = capsys.readouterr().err
    assert drawn.count("\r") == STEPS
    assert drawn.endswith("\n")
    assert sparkline([scores[0] for scores in monitor.scores.values()]) in drawn
    stream = io.StringIO()
    with AlignmentMonitor(pipe, Mean(), PROMPT, positions=[2], log=stream, show=False):
        plain(pipe, SEEDS, arguments)
    assert len(stream.getvalue().splitlines()) == 1
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_wrong_is_stopped(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    plain(pipe, SEEDS, arguments)
    before = state(pipe)
    with AlignmentMonitor(pipe, Mean(), PROMPT, positions=[2, 4], stop_below=1e9) as monitor:
        with pytest.raises(RunStopped, match="stopped at position 2 of 5") as stop:
            plain(pipe, SEEDS, arguments)
        assert (stop.value.position, stop.value.scores) == (2, monitor.scores[2])
        assert list(monitor.scores) == [2]
    assert state(pipe) == before
    with AlignmentMonitor(pipe, Mean(), PROMPT, stop_below=-1e9) as monitor:
        plain(pipe, SEEDS, arguments)
    assert len(monitor.scores) == STEPS


def test_what_is_no_number_is_told_and_stops_a_run(
    sd15_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pipe, arguments = opened(sd15_folder)

    class Lost(Mean):
        def score(self, inputs: torch.Tensor, prompts: Any) -> torch.Tensor:
            return super().score(inputs, prompts) * torch.tensor([math.nan, 1.0])

    path = tmp_path / "scores.jsonl"
    with AlignmentMonitor(pipe, Lost(), PROMPT, show=True, log=path, stop_below=-1e9) as monitor:
        plain(pipe, SEEDS, arguments)  # the second image is good enough
    first, second = json.loads(path.read_text().splitlines()[0])["scores"]
    assert (first, second) == (None, monitor.scores[1][1])
    assert "nan" in capsys.readouterr().err
    with AlignmentMonitor(pipe, Lost(), PROMPT, stop_below=1e9), pytest.raises(RunStopped, match="at position 1 of 5"):
        plain(pipe, SEEDS, arguments)
    assert sparkline([math.nan, 1, 2, math.inf]) == " ▁█ "


def test_a_scorer_by_name_must_fit_later_runs_of_other_sizes_too(world: Any) -> None:
    called: dict[str, Any] = {"num_inference_steps": 2, "max_sequence_length": 1}
    with AlignmentMonitor(world, "noisyclip", PROMPT, show=False) as monitor:
        world(PROMPT, **called)
        assert sorted(monitor.scores) == [1, 2]
        with pytest.raises(NbenchError, match="no noisyclip weights fit latents of 4x8x8"):
            world(PROMPT, height=16, width=16, **called)


def test_monitors_may_be_closed_in_any_order(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    pipe(PROMPT, **arguments)  # which leaves attributes of its own
    before = state(pipe)
    first, second = (AlignmentMonitor(pipe, Mean(), PROMPT, show=False) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    pipe(PROMPT, **arguments)
    assert sorted(second.scores) == list(range(1, STEPS + 1))
    second.__exit__(None, None, None)
    assert state(pipe) == before
    pipe(PROMPT, **arguments)


def test_misfits_are_refused(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    with pytest.raises(NbenchError, match="mean reads finished images"):
        AlignmentMonitor(pipe, Mean("image"), PROMPT)
    with pytest.raises(NbenchError, match="position 0 is pure noise"):
        AlignmentMonitor(pipe, Mean(), PROMPT, positions=[0, 5])
    for reads, late in (("latent", STEPS + 1), ("activations:mid_block", STEPS)):
        with (
            AlignmentMonitor(pipe, Mean(reads), PROMPT, positions=[1, late]),
            pytest.raises(NbenchError, match=f"position {late}"),
        ):
            plain(pipe, SEEDS, arguments)
    with AlignmentMonitor(pipe, Mean(), ["a", "b", "c"]), pytest.raises(NbenchError, match="2 images for 3 prompts"):
        plain(pipe, SEEDS, arguments)
