"""Saved answers of SGLang-Diffusion and vLLM-Omni become data sets with what their schedulers really did."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from PIL import Image

from nbench.builders.importing.config import EngineConfig
from nbench.builders.importing.engine_files import import_engine
from nbench.errors import NbenchError
from nbench.shards.reader import open_bench
from nbench.shards.verify import verify

from ...conftest import Run
from .engine_answers import STEPS, made, packed, rollout

PROMPTS = ("a red circle", "../../etc/passwd\x1b[31m")


def expected(seed: int, positions: Sequence[int]) -> dict[int, np.ndarray]:
    return {k: made(seed).latents[k].to(torch.float16).numpy() for k in positions}


def check(out: Path, seeds: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
    """That the data set holds the runs with `seeds`, by prompt."""
    bench = open_bench(out)
    assert bench.info.stored == tuple(positions)
    batch = next(bench.batches(positions, images=True))
    assert list(batch.seeds) == [seed for each in seeds for seed in each]
    assert batch.images is not None
    for row, seed in enumerate(batch.seeds):
        for k, latent in expected(seed, positions).items():
            np.testing.assert_array_equal(batch.latents[k][row], latent)
        np.testing.assert_array_equal(batch.images[row], made(seed).image)
    run = made(0)
    for place in bench.info.positions:
        k = place.position
        assert place.sigma == pytest.approx(float(run.sigmas[k]))
        assert place.timestep == (None if k == STEPS else pytest.approx(float(run.timesteps[k])))
        assert place.input_scale == 1
    assert verify(out).defects == ()


@pytest.mark.parametrize("how", [{"text": True}, {"pack": True}, {"frames": 1}, {}])
def test_rollouts_of_sglang(tmp_path: Path, how: dict[str, Any]) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    for number, prompt in enumerate(PROMPTS):
        answers = [rollout(prompt, seed, made(seed), **how) for seed in (10 * number + 3, 10 * number + 4)]
        if how.get("text"):
            (folder / f"{number}.json").write_text(json.dumps(answers))
        else:
            (folder / f"{number}.msgpack").write_bytes(msgpack.packb(answers))
    report = import_engine("sglang", EngineConfig(folder=folder, out=tmp_path / "out"), progress=False)
    assert (report.rows, report.failed) == (4, 0)
    check(tmp_path / "out", [(3, 4), (13, 14)], range(STEPS + 1))
    assert [prompt.prompt for prompt in open_bench(tmp_path / "out").prompts] == list(PROMPTS)


def test_chosen_steps_and_several_images_of_a_request(tmp_path: Path, run: Run) -> None:
    folder, chosen = tmp_path / "answers", [1, 3, STEPS]
    folder.mkdir()
    answers = [
        rollout("p", 5, made(5 + number), chosen, pack=True) | {"request_id": "one", "seed": 5} for number in (0, 1)
    ]
    (folder / "a.msgpack").write_bytes(msgpack.packb(answers))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "x7", "prompt": "p"}) + "\n" + json.dumps({"id": "x8", "prompt": "q"}))
    said = run("import", "sglang", folder, "--prompts", prompts, "--out", tmp_path / "out", "--positions", "3")
    assert said.code == 0, said.err
    check(tmp_path / "out", [(5, 6)], (3, STEPS))
    assert open_bench(tmp_path / "out").prompts[0].prompt_id == "x7"
    missing = run("import", "sglang", folder, "--out", tmp_path / "more", "--positions", "2")
    assert (missing.code, "latents 2 not in" in missing.err) == (2, True)


def vllm_answer(seed: int, batch: bool, first: bool, **fields: Any) -> dict[str, Any]:
    """What a user keeps of an OmniRequestOutput: latents after each step, with the initial noise or without."""
    result = made(seed)
    latents = torch.stack([packed(each) for each in result.latents[0 if first else 1 :]])
    return {
        "prompt": {"prompt": "p"},
        "trajectory_latents": latents[None] if batch else latents,
        "trajectory_timesteps": result.timesteps[None] if batch else list(result.timesteps),
        "seed": seed,
        **fields,
    }


@pytest.mark.parametrize(("batch", "first"), [(True, True), (False, True), (False, False)])
def test_answers_of_vllm_omni(tmp_path: Path, batch: bool, first: bool) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    for seed in (3, 4):
        torch.save(vllm_answer(seed, batch, first, num_inference_steps=STEPS), folder / f"{seed}.pt")
        Image.fromarray(made(seed).image).save(folder / f"{seed}.png")
    import_engine("vllm-omni", EngineConfig(folder=folder, out=tmp_path / "out"), progress=False)
    bench = open_bench(tmp_path / "out")
    batch_ = next(bench.batches(bench.info.stored, images=True))
    assert bench.info.stored == tuple(range(0 if first else 1, STEPS + 1))
    for row, seed in enumerate((3, 4)):
        for k, latent in expected(seed, bench.info.stored).items():
            np.testing.assert_array_equal(batch_.latents[k][row], latent)
    assert {place.sigma for place in bench.info.positions} == {None, 0.0}  # it does not tell them


class Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch /tmp/nbench-was-here",)


def bad(change: dict[str, Any], **trajectory: Any) -> dict[str, Any]:
    answer = rollout("p", 3, made(3))
    return answer | change | ({"dit_trajectory": answer["dit_trajectory"] | trajectory} if trajectory else {})


def some(count: int) -> dict[str, Any]:
    """Latents of `count` positions."""
    return dict(rollout("p", 3, made(3), list(range(count)))["dit_trajectory"]["latents"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (bad({}, latents=some(3)), "3 latents of 4 steps and no latent_step_indices"),
        (bad({}, latents=None), "ask for them with rollout_return_dit_trajectory"),
        (bad({"dit_trajectory": None}), "ask for return_trajectory_latents"),
        (bad({"prompt": None}), "holds no answer"),
        (bad({"generated_output": None}), "has no image"),
        (rollout("p", 3, made(3), frames=2), "of several frames"),
        (
            bad({"dit_trajectory": rollout("p", 3, made(3, 48, 48), pack=True)["dit_trajectory"]}),
            "which do not tile",
        ),
        (rollout("p", 3, made(3), [2, 1]), "not some of 0..4 in order"),
        (bad({}, latents=some(5) | {"shape": [1, 2]}), "is stated as"),
        (bad({}, latents=some(5) | {"data": b"\x80\x04."}), "is damaged"),
        ("text", "holds no answer"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, answer: Any, message: str) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "a.msgpack").write_bytes(msgpack.packb(answer))
    with pytest.raises(NbenchError, match=message):
        import_engine("sglang", EngineConfig(folder=folder, out=tmp_path / "out"), progress=False)


def test_objects_are_not_unpickled_and_steps_must_be_known(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    config = EngineConfig(folder=folder, out=tmp_path / "out")
    (folder / "a.pt").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(NbenchError, match="was not unpickled"):
        import_engine("vllm-omni", config, progress=False)
    torch.save(vllm_answer(3, True, True), folder / "a.pt")
    with pytest.raises(NbenchError, match="give --steps"):
        import_engine("vllm-omni", config, progress=False)
    with pytest.raises(NbenchError, match="4 timesteps of a run of 20 steps"):
        import_engine("vllm-omni", replace(config, steps=20), progress=False)
    assert not Path("/tmp/nbench-was-here").exists()


def test_candidates_must_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    config = EngineConfig(folder=folder, out=tmp_path / "out")

    def write(*answers: dict[str, Any]) -> None:
        (folder / "a.msgpack").write_bytes(msgpack.packb(list(answers)))

    write(rollout("p", 3, made(3)), rollout("p", 4, made(4)), rollout("q", 3, made(3)))
    with pytest.raises(NbenchError, match="prompt 1 has 1 answers, prompt 0 2"):
        import_engine("sglang", config, progress=False)
    write(rollout("p", 3, made(3)), rollout("p", 3, made(3)) | {"request_id": "again"})
    with pytest.raises(NbenchError, match="seed 3 of a prompt again"):
        import_engine("sglang", config, progress=False)
    write(rollout("p", 3, made(3)), rollout("p", 4, made(4), [0, 1]))
    with pytest.raises(NbenchError, match="record other positions"):
        import_engine("sglang", config, progress=False)
    write(rollout("p", 3, made(3)), rollout("p", 4, made(4, 64, 96)))
    with pytest.raises(NbenchError, match=r"holds latents of .*, the first candidate"):
        import_engine("sglang", config, progress=False)
    report = import_engine("sglang", replace(config, skip_bad=True), progress=False)
    assert (report.rows, report.failed) == (2, 1)
