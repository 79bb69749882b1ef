"""References by name: what names and scorers there can be, and what they read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.protocols import TwinTower
from nbench.scorers.references import Reference, load_reference, parse_reference, parse_references, try_scorer
from nbench.scorers.registry import get_scorer

from ..small_bench import make_bench
from .tiny_models import save_clip

OWN = """
class Mean:
    name, reads, fingerprint = "mean", "preview", "1"
    def score(self, inputs, prompts): return inputs.flatten(1).mean(1)
class Latent(Mean):
    reads = "latent"
class Broken(Mean):
    reads = "image"
    def score(self, inputs, prompts): return inputs[0, 0, 0]
"""


def test_a_reference_is_named_or_called_after_its_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge").mkdir()
    for text, name, scorer in (
        ("clip", "clip", "clip"),
        ("vqascore:llava-hf/llava-1.5-7b-hf", "vqascore-llava-1.5-7b-hf", "vqascore:llava-hf/llava-1.5-7b-hf"),
        ("human-like=mine.py:Mine", "human-like", "mine.py:Mine"),
        ("mine.py:Mine", "mine.py-Mine", "mine.py:Mine"),
        ("./judge", "judge", "./judge"),
        ("judge", "judge", "judge"),
        ("a=./b=c", "a", "./b=c"),
    ):
        assert parse_reference(text) == Reference(name, scorer)
    assert [reference.name for reference in parse_references(None)] == ["clip", "vqascore"]
    assert parse_references(["clip", "clip"]) == (Reference("clip", "clip"),)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["../x=clip"], "'../x' cannot be the name of a reference"),
        (["=clip"], "cannot be the name of a reference"),
        (["a.=clip"], "cannot be the name of a reference"),
        ([f"{'a' * 101}=clip"], "cannot be the name of a reference"),
        (["human=clip"], "cannot be called human, which means people's ratings"),
        (["own=clip"], "cannot be called own"),
        (["a="], "reference a has no scorer: give a=SCORER"),
        (["clipp"], r"unknown reference clipp \(did you mean clip\?\)"),
        (["a=clip", "a=pickscore"], "two references are called a"),
    ],
)
def test_what_cannot_be_a_reference(texts: list[str], reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        parse_references(texts)


def test_a_table_does_not_tell_where_a_scorer_lies_on_this_machine(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "judge")
    for scorer, label in (
        (str(clip), "judge"),
        (f"vqascore:{clip}", "vqascore:judge"),
        (f"{tmp_path}/mine.py:Mine", "mine.py:Mine"),
        ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"),
    ):
        assert Reference("r", scorer).scorer_label == label


def test_any_scorer_of_pictures_reads_the_finished_image(tmp_path: Path) -> None:
    info = make_bench(tmp_path / "bench")[0].info
    clip = save_clip(tmp_path / "judge")
    (tmp_path / "own.py").write_text(OWN)
    spellings = [load_reference(Reference("r", name), info) for name in (str(clip), f"image:{clip}", f"preview:{clip}")]
    assert {scorer.reads for scorer in spellings} == {"image"}
    assert spellings[0].fingerprint == spellings[1].fingerprint
    world = load_reference(Reference("clip", "clip"), info)
    assert isinstance(world, TwinTower)
    assert world.fingerprint == get_scorer("image:clip", info).fingerprint
    mean = load_reference(Reference("r", f"{tmp_path}/own.py:Mean"), info)
    assert mean.reads == "image"
    try_scorer(mean, info)
    for scorer in ("random", "cfg-gap", "oracle", f"{tmp_path}/own.py:Latent"):
        with pytest.raises(NbenchError, match=r"a reference scores finished images: name a scorer of images"):
            load_reference(Reference("r", scorer), info)
    with pytest.raises(NbenchError, match=r"score returns shape \[32\] for 1 rows"):
        try_scorer(load_reference(Reference("r", f"{tmp_path}/own.py:Broken"), info), info)


def test_other_latent_spaces_get_the_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    info = replace(make_bench(tmp_path / "bench")[0].info, latent_shape=(4, 128, 128))
    for name, model in (("clip", "openai/clip-vit-base-patch32"), ("vqascore", "Salesforce/blip-vqa-base")):
        with pytest.raises(NbenchError, match=f"no model {model}"):
            load_reference(parse_reference(name), info)


def test_the_worlds_clip_on_images_is_the_frozen_one(tmp_path: Path) -> None:
    info = make_bench(tmp_path / "bench")[0].info
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    on_images, on_previews = load_reference(Reference("clip", "clip"), info), get_scorer("clip", info)
    assert isinstance(on_images, TwinTower)
    assert isinstance(on_previews, TwinTower)
    torch.testing.assert_close(on_images.embed_inputs(image), on_previews.embed_inputs(image))
