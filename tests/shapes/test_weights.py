"""What the shipped models are required to do, measured anew on held-out scenes."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from nbench.shapes.grammar import parse
from nbench.shapes.recipe.__main__ import MODELS, WEIGHTS
from nbench.shapes.recipe.figures import answers, shortfalls
from nbench.shapes.truth import matches


def test_together_at_most_35_megabytes_of_safetensors() -> None:
    files = [path for model in MODELS for path in (WEIGHTS / model).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 35 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_log_and_card_lie_beside_the_weights() -> None:
    figures = json.loads((WEIGHTS / "figures.json").read_text())
    assert set(figures["seconds"]) >= {path.stem for path in (WEIGHTS / "logs").glob("*.jsonl")}
    assert {"clip", "vqa", "bench", "clip_previews", "noisyclip_previews"} <= set(figures)
    assert "license: apache-2.0" in (WEIGHTS / "README.md").read_text()
    for log in (WEIGHTS / "logs").glob("*.jsonl"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lines) > 1
        assert all("seconds" in line or line.get("epoch") == 0 for line in lines)


def test_all_that_is_required_is_reached() -> None:
    assert shortfalls(json.loads((WEIGHTS / "figures.json").read_text())) == []


@pytest.mark.slow
def test_the_card_tells_the_truth() -> None:
    recorded = json.loads((WEIGHTS / "figures.json").read_text())
    measured = answers(WEIGHTS, count=1000, seed=91)  # other scenes than those of the card
    for model in ("clip", "vqa"):
        assert measured[model] == pytest.approx(recorded[model], abs=0.04)


@pytest.mark.slow
def test_the_stock_call_draws_what_it_is_asked_for() -> None:
    """Opened and called as a user of diffusers would, with nothing but a prompt."""
    pipe = DiffusionPipeline.from_pretrained(WEIGHTS / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    prompts = [
        "two red circles on gray background",
        "one blue square on white background",
        "three green triangles on black background",
        "one yellow cross on pink background",
    ]
    seeds = [torch.Generator().manual_seed(i) for i in range(16)]
    images = np.rint(pipe(prompts * 4, generator=seeds, output_type="np").images * 255).astype(np.uint8)
    assert images.shape == (16, 32, 32, 3)
    assert matches(images, [parse(prompt) for prompt in prompts * 4]).mean() >= 0.4


@pytest.mark.parametrize("model", ["clip", "noisyclip", "vqa"])
def test_half_precision_on_disk_float32_in_use(model: str) -> None:
    from safetensors import safe_open
    from transformers import AutoConfig

    with safe_open(WEIGHTS / model / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    assert AutoConfig.from_pretrained(WEIGHTS / model).dtype == torch.float32
