"""Prompt files and the world's own prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbench.builders.corruptions import corrupt_prompts
from nbench.builders.prompts import Prompt, read_prompts, world_prompts
from nbench.errors import NbenchError
from nbench.shapes.grammar import parse

TAGS = {"basic": ["attribute"], "advanced": []}
NEAR = {"subject": "a", "colour": "b", "quantity": "c", "background": "d"}


def test_formats(tmp_path: Path) -> None:
    jsonl, table, text = (tmp_path / f"p.{suffix}" for suffix in ("jsonl", "csv", "txt"))
    jsonl.write_text(
        json.dumps({"id": 7, "prompt": "a cat", "tags": TAGS, "corruptions": NEAR, "url": "x"})
        + '\n\n{"prompt": "zwölf Boxkämpfer"}\n',
        encoding="utf-8",
    )
    assert read_prompts(jsonl) == [Prompt("7", "a cat", TAGS, NEAR), Prompt("1", "zwölf Boxkämpfer")]
    table.write_text('\ufeffprompt,tags\n"a cat, black","{""basic"": [""attribute""], ""advanced"": []}"\na dog,\n')
    assert read_prompts(table) == [Prompt("0", "a cat, black", TAGS), Prompt("1", "a dog")]
    text.write_text("".join(f"prompt {i}\n" for i in range(11)))
    assert [prompt.id for prompt in read_prompts(text)][:2] == ["00", "01"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.txt", "", "is empty"),
        ("p.txt", "\n  \n", "is empty"),
        ("p.csv", "prompt\n", "is empty"),
        ("p.csv", "caption,id\na cat,1\n", r"row 1: no column `prompt` \(it has caption, id\)"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "row 2: no column `prompt`"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "  "}\n', "row 2: the prompt is empty"),
        ("p.csv", "id,prompt\n1,a\n2,\n", "row 2: the prompt is empty"),
        ("p.jsonl", '{"prompt": 3}\n', "row 1: the prompt is empty"),
        ("p.jsonl", "a cat\n", "line 1: not a JSON object"),
        ("p.jsonl", '{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}\n', "has the id 'x' twice"),
        ("p.jsonl", '{"prompt": "a", "tags": {"basic": []}}\n', "tags need basic, advanced; these have basic"),
        ("p.jsonl", '{"prompt": "a", "tags": {"basic": 3, "advanced": []}}\n', "of the wrong form"),
        ("p.csv", "prompt,tags\na,attribute\n", "column tags: not a JSON object"),
        ("p.jsonl", '{"prompt": "a", "corruptions": {"subject": "b"}}\n', "corruptions need subject, colour"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(NbenchError, match=told):
        read_prompts(tmp_path / name)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"cannot read prompts from .*No such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("zwölf".encode("latin-1"))
    with pytest.raises(NbenchError, match="cannot read prompts"):
        read_prompts(tmp_path / "latin.txt")


def test_world_prompts_keep_the_split() -> None:
    bench, ncc = world_prompts("genai-bench"), world_prompts("ncc", 400)
    assert (len(bench), len(ncc)) == (200, 400)
    assert len({prompt.text for prompt in bench}) == 200
    assert all(parse(prompt.text).held_out for prompt in bench)
    assert not any(parse(prompt.text).held_out for prompt in ncc)
    assert bench[12].id == "shapes-00012"
    assert all(prompt.tags and prompt.corruptions is None for prompt in bench)
    assert all(len(set((prompt.corruptions or {}).values()) | {prompt.text}) == 5 for prompt in ncc)
    assert world_prompts("ncc", 10) == ncc[:10]


def test_the_world_is_finite() -> None:
    with pytest.raises(NbenchError, match=r"only some .* different prompts: lower --limit 60000"):
        world_prompts("genai-bench", 60_000)


def test_corruptions_come_from_the_file_or_the_grammar_or_not_at_all() -> None:
    given, known, foreign = (
        Prompt("0", "a cat", None, NEAR),
        Prompt("1", "two red circles on gray background"),
        Prompt("2", "a cat"),
    )
    corrupted = corrupt_prompts([given, known, foreign])
    assert corrupted[0] == given
    assert corrupted[2] == foreign
    near = corrupted[1].corruptions or {}
    assert set(near) == set(NEAR)
    assert all(parse(text).caption == text != known.text for text in near.values())
