"""The card: what it says of a data set, and what it leaves of a user's own text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from nbench.errors import NbenchError
from nbench.shards.dataset import read_info
from nbench.shards.hub.card import dataset_card, model_card, results_card
from nbench.shards.hub.readme import BEGIN, END, merge
from nbench.shards.row_columns import arrow_schema
from nbench.shards.schema import DatasetInfo

from ..conftest import POSITIONS


def front(card: str) -> dict[str, Any]:
    """The YAML of a card."""
    _, text, _ = card.split("---\n", 2)
    return dict(yaml.safe_load(text))


def with_spec(info: DatasetInfo, pipeline: str = "shapes", **spec: Any) -> DatasetInfo:
    return replace(info, spec={**info.spec, "pipeline": {"name": pipeline, "content": "c"}, **spec})


def test_the_yaml_tells_the_hub_what_it_is(info: DatasetInfo) -> None:
    metadata = front(dataset_card(info, "ann/bench"))
    assert metadata["configs"] == [
        {"config_name": "default", "data_files": [{"split": "test", "path": "data/test-*.parquet"}]}
    ]
    assert metadata["task_categories"] == ["text-to-image"]
    assert metadata["size_categories"] == ["n<1K"]
    assert metadata["pretty_name"] == "Noisy-GenAI-Bench (shapes)"
    assert "arxiv:2512.08505" in metadata["tags"]
    assert front(dataset_card(replace(info, rows=1000), "ann/bench"))["size_categories"] == ["1K<n<10K"]
    assert front(dataset_card(replace(info, rows=10**9), "ann/bench"))["size_categories"] == ["n>10M"]


def test_the_hub_s_own_parser_reads_it(info: DatasetInfo) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard(dataset_card(info, "ann/bench"))
    assert card.data.to_dict()["pretty_name"] == "Noisy-GenAI-Bench (shapes)"
    assert card.text.lstrip().startswith(BEGIN)


def test_columns_and_positions_are_all_told(info: DatasetInfo) -> None:
    card = dataset_card(info, "ann/bench")
    for name in arrow_schema(info).names:
        assert f"`{name}`" in card or name.startswith("latent_")
    assert "`latent_00` .. `latent_50`" in card
    for position in info.positions:
        sigma = f"{position.sigma:.6g}"
        timestep = "" if position.timestep is None else f"{position.timestep:.6g}"
        assert f"| {position.position} | {timestep} | {sigma} | 1 |" in card
    assert "Stored: 0, 10, 20, 30, 50." in card
    assert info.fingerprint in card
    assert "2512.08505" in card.rpartition("## Citation")[2]


def test_every_signal_is_described_as_what_it_is(info: DatasetInfo) -> None:
    signals = ("latent", "x0", "cfg_gap", "activations:mid.attn:6", "image")
    card = dataset_card(replace(info, signals=signals, latent_dtype="int8"), "ann/bench")
    described = {row.split("|")[1].strip(): row.split("|")[2:4] for row in card.splitlines() if row.startswith("| `")}
    for columns, kind, content in (
        ("`latent_00` .. `latent_50`", "int8", "raw latent"),
        ("`scale_00` .. `scale_50`", "float32", "int8 scales of the raw latent"),
        ("`x0_00` .. `x0_30`", "int8", "estimate of the finished latent"),
        ("`x0_scale_00` .. `x0_scale_30`", "float32", "int8 scales of the estimate"),
        ("`act_mid_attn_00` .. `act_mid_attn_30`", "float16", "pooled activations of `mid.attn`"),
        ("`cfg_gap`", "float32", "norm of conditional minus unconditional"),
    ):
        assert described[columns][0].endswith(f" x {kind} ")
        assert content in described[columns][1]
    assert "scale" not in described["`cfg_gap`"][1]
    # 12 rows: five latents and four x0 of 256 int8, four activations of 6 float16, 50 float32
    assert "latent 15,360 bytes, x0 12,288 bytes, activations:mid.attn:6 576 bytes, cfg_gap 2,400 bytes" in card
    tars = dataset_card(replace(info, signals=signals, latent_dtype="int8", format="webdataset"), "ann/bench")
    assert "| `x0_00.npy` .. `x0_30.npy` | estimate" in tars
    assert "| `cfg_gap.npy` | per step" in tars
    assert "status, int8 scales |" in tars


def test_datasets_loads_the_folder_with_its_card(bench_folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    (bench_folder / "scores").mkdir()
    (bench_folder / "scores" / "clip.parquet").write_bytes(
        (bench_folder / "data/test-00000-of-00003.parquet").read_bytes()
    )
    (bench_folder / "README.md").write_text(dataset_card(read_info(bench_folder), "ann/bench"))
    rows = load_dataset(str(bench_folder), split="test", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 12
    assert [name for name in rows.column_names if name.startswith("latent_")] == [f"latent_{k:02d}" for k in POSITIONS]


def test_shards_that_are_tars_are_told_so(info: DatasetInfo) -> None:
    card = dataset_card(replace(info, format="webdataset"), "ann/bench")
    assert front(card)["configs"][0]["data_files"] == [{"split": "test", "path": "data/test-*.tar"}]
    assert "`meta.json`" in card
    assert "`latent_00`" not in card


@pytest.mark.parametrize(
    ("source", "pipeline", "licence", "prompts", "images"),
    [
        ("CaptionEmporium/conceptual-captions-cc12m-llavanext", "sdxl", "cc-by-sa-4.0", "CC-BY-SA-4.0", "`sdxl`"),
        ("cc12m", "shapes", "cc-by-sa-4.0", "CC-BY-SA-4.0", "embedded world: Apache-2.0"),
        ("BaiqiL/GenAI-Bench", "shapes", "apache-2.0", "GenAI-Bench: Apache-2.0", "embedded world: Apache-2.0"),
        ("BaiqiL/GenAI-Bench", "sdxl", "other", "GenAI-Bench: Apache-2.0", "the licence of that model"),
        (None, "shapes", "unknown", "the publisher has to state it", "embedded world: Apache-2.0"),
        ("captions.jsonl", "sdxl", "unknown", "the publisher has to state it", "the licence of that model"),
    ],
)
def test_licences_follow_the_sources(
    info: DatasetInfo, source: str | None, pipeline: str, licence: str, prompts: str, images: str
) -> None:
    card = dataset_card(with_spec(info, pipeline, prompts={"count": 4, "source": source}), "ann/bench")
    rights = card.partition("## Licences")[2].partition("## Bias")[0]
    assert front(card)["license"] == licence
    assert prompts in rights
    assert images in rights


def test_a_spec_cannot_break_the_page_or_show_a_machine_s_paths(info: DatasetInfo) -> None:
    card = dataset_card(with_spec(info, "/home/me/model", dtype="a|b`\n# c"), "ann/bench")
    assert "/home/me" not in card
    assert "| pipeline | `model` |" in card
    assert "| dtype | `a/b' # c` |" in card


def test_the_same_again_is_the_same(info: DatasetInfo) -> None:
    card = dataset_card(info, "ann/bench")
    assert dataset_card(info, "ann/bench", card) == card


def test_a_text_without_markers_is_kept_whole_and_first(info: DatasetInfo) -> None:
    mine = "# Mine\n\n- words\n\n---\n\nafter a rule"
    card = dataset_card(info, "ann/bench", mine)
    assert card.partition("\n---\n")[2].startswith(f"{mine}\n\n{BEGIN}")
    again = dataset_card(replace(info, n_prompts=7), "ann/bench", card)
    assert again.count(mine) == again.count(BEGIN) == again.count(END) == 1
    assert "7 prompts" in again


def test_what_is_around_the_markers_is_kept() -> None:
    old = f"---\na: 1\n---\nbefore\n{BEGIN}\nold\n{END}\nafter\n"
    assert merge({}, "new", old) == old.replace("old", "new")
    broken = f"{BEGIN}\nan end is missing: mine\n"
    assert merge({}, "new", broken).count("mine") == 1
    twice = merge({}, "newer", merge({}, "new", broken))
    assert "mine" in twice
    assert "newer" in twice
    assert "new\n" not in twice


def test_yaml_of_the_user_s_wins_by_key_and_stays_as_written() -> None:
    mine = "# a comment\nlicense: mit   # mine\ntags: [x]\n"
    card = merge(
        {"license": "unknown", "tags": ["nbench"], "size_categories": ["n<1K"]}, "text", f"---\n{mine}---\n# T\n"
    )
    assert card.startswith(f"---\n{mine}")
    assert front(card) == {"license": "mit", "tags": ["x"], "size_categories": ["n<1K"]}
    assert front(merge({"b": 2}, "text", "---\n{a: 1}\n---\n")) == {"a": 1, "b": 2}
    assert front(merge({"b": 2}, "text", "---\r\na: 1\r\n---\r\nwords")) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "bad", ["a: [", "- a\n- b", "text", "date: 2024-13-45", f"size: {'1' * 5000}", f"tags: {'[' * 3000}"], ids=range(6)
)
def test_yaml_that_cannot_be_read_is_told(bad: str) -> None:
    with pytest.raises(NbenchError, match="the YAML at the top of README"):
        merge({}, "text", f"---\n{bad}\n---\n")


def test_models_and_results_have_cards() -> None:
    card = model_card({"positions": [20, 21], "epochs": 5, "preview": {"weight": []}}, "ann/noisyclip")
    assert front(card)["library_name"] == "transformers"
    assert "| `positions` | `[20, 21]` |" in card
    assert "`preview`" not in card
    assert "nbench evaluate --model ann/noisyclip" in card
    assert "A NoisyCLIP" not in model_card({}, "ann/clip")
    for recipe, name, how in (
        ({"layer": "blocks.1", "reference": "clip", "input": "activations"}, "probe", "probe:ann/m"),
        ({"input": "x0_preview"}, "VQA model", "x0-preview:vqascore:ann/m"),
        ({"input": "latent", "tune": "vision", "noise_level": "token"}, "NoisyCLIP", "ann/m"),
    ):
        card = model_card(recipe, "ann/m")
        assert f"\nA {name}" in card
        assert f"--model {how} --bench" in card
    plain = results_card([{"bench": "b", "model": "m"}], "ann/results", tables=False)
    assert "configs" not in front(plain)
    assert "| `b` | `m` |" in plain
