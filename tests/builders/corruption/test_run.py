"""`nbench corrupt`: what it writes, what reads it, what it refuses; and a model of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.corruption.config import CorruptConfig
from nbench.builders.corruption.local import LocalModel
from nbench.builders.corruption.run import corrupt
from nbench.builders.prompts.choose import load_prompts
from nbench.builders.prompts.request import PromptRequest
from nbench.errors import NbenchError
from nbench.jobs.run import Run
from nbench.jobs.status import at_work
from nbench.shapes.grammar import parse
from nbench.shards.reader import open_bench

SHAPES = PromptRequest(limit=4)


@pytest.mark.parametrize("name", ["near.jsonl", "near.parquet"])
def test_the_world_is_exact_and_a_build_reads_it(tmp_path: Path, name: str) -> None:
    report = corrupt(CorruptConfig(SHAPES, tmp_path / name, kinds=("colour", "background")))
    assert report.counts == {"colour": {"ok": 4}, "background": {"ok": 4}}
    first = report.out.read_bytes()
    assert corrupt(CorruptConfig(SHAPES, tmp_path / name, kinds=("background", "colour"))).out.read_bytes() == first
    prompts = load_prompts(PromptRequest(tmp_path / name)).prompts
    for prompt in prompts:
        assert prompt.corruptions is not None
        near = parse(str(prompt.corruptions["colour"]))
        assert near.groups[0].colour != parse(prompt.text).groups[0].colour
        assert prompt.corruptions["subject"] is None
    built = build(BuildConfig(kind="ncc", out=tmp_path / "ncc", prompts=str(tmp_path / name), limit=2, steps=2))
    rows = next(open_bench(built.out).batches((2,), batch_size=2))
    assert list(rows.corruptions) == [prompt.corruptions for prompt in prompts[:2]]


def test_formats_agree(tmp_path: Path) -> None:
    lines, table = (corrupt(CorruptConfig(SHAPES, tmp_path / f"n.{kind}")).out for kind in ("jsonl", "parquet"))
    assert [json.loads(line) for line in lines.read_text().splitlines()] == pq.read_table(table).to_pylist()


def test_parts_of_several_processes_make_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.builders.corruption.job._PROMPTS", 3)
    whole = corrupt(CorruptConfig(SHAPES, tmp_path / "whole.parquet")).out.read_bytes()
    config = CorruptConfig(SHAPES, tmp_path / "near.parquet")
    assert corrupt(config, how=Run(share=(1, 2))).left == 1
    (status,) = at_work(tmp_path)
    assert (status.title, status.done, status.units, status.rows) == ("corrupt", 1, 2, 4)
    corrupt(CorruptConfig(PromptRequest(limit=5), config.out), how=Run(share=(0, 2)))  # discards what is of others
    assert corrupt(config, how=Run(share=(1, 2))).left == 1
    report = corrupt(config, how=Run(lease=1))
    assert report.counts["colour"] == {"ok": 4}
    assert report.out.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"whole.parquet", "near.parquet"}


def test_a_caption_of_another_world(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    report = corrupt(CorruptConfig(PromptRequest(tmp_path / "p.txt"), tmp_path / "n.jsonl", "world", ("colour",)))
    assert report.counts == {"colour": {"not applicable": 1}}
    assert load_prompts(PromptRequest(tmp_path / "n.jsonl")).prompts[0].corruptions is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("size",)}, "--kinds 'size': give some of subject,colour"),
        ({"kinds": ()}, "--kinds ''"),
        ({"kinds": ("colour", "colour")}, "each once"),
        ({"out": Path("near.csv")}, "neither .jsonl nor .parquet"),
        ({"engine": "llm"}, "--engine llm needs --model"),
        ({"model": "m"}, "no other engine takes one"),
        ({"endpoint": "http://h/v1"}, "--endpoint needs --engine llm"),
        ({"concurrency": 0}, "more than 0"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        CorruptConfig(prompts=SHAPES, **{"out": Path("n.jsonl"), **options})


def test_the_file_that_is_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a cat"}\n')
    with pytest.raises(NbenchError, match="is also the input file"):
        CorruptConfig(PromptRequest(path), path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000", "http://me:secret@host/v1"])
def test_addresses(tmp_path: Path, url: str) -> None:
    with pytest.raises(NbenchError, match="--endpoint is not an address") as caught:
        corrupt(CorruptConfig(SHAPES, tmp_path / "n.jsonl", "llm", endpoint=url, model="m"))
    assert "secret" not in str(caught.value)


def test_a_model_of_transformers(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "red": 2, "blue": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(tmp_path / "bare")
    config = GPT2Config(vocab_size=4, n_positions=256, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(NbenchError, match="has no chat template"):
        LocalModel(str(tmp_path / "bare"))
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "chat")
    model.save_pretrained(tmp_path / "chat")
    options = CorruptConfig(
        PromptRequest(limit=1), tmp_path / "n.jsonl", "llm", ("colour",), model=str(tmp_path / "chat")
    )
    report = corrupt(options)  # random weights speak no JSON
    assert report.counts == {"colour": {"failed": 1}}
    local = LocalModel(str(tmp_path / "chat"))
    said = [local.reply([{"role": "user", "content": "red"}], 3, 0.7) for _ in range(2)]
    assert said[0] == said[1] != ""
    with pytest.raises(NbenchError, match="cannot load the language model"):
        LocalModel(str(tmp_path / "none"))
