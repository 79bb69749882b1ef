"""Prompts from files, standard input and the world: read, checked, filtered, drawn; and how long they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbench.builders.corruption.world import corrupt_prompts
from nbench.builders.prompts.choose import Prompt, load_prompts, read_prompts, world_prompts
from nbench.builders.prompts.length import count_too_long, token_limits, too_long_note
from nbench.builders.prompts.request import PromptRequest
from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.shapes.grammar import parse

from ...tiny_parts import TOKENS
from ...tiny_pipelines import save_pixart, save_sd3

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
    ("name", "content", "message"),
    [
        ("p.txt", "", "is empty"),
        ("p.txt", "\n  \n", "is empty"),
        ("p.csv", "prompt\n", "is empty"),
        ("p.csv", "caption,id\na cat,1\n", r"p.csv: no column `prompt` \(it has caption, id\)"),
        ("p.csv", "prompt,id\na cat, black,1\n", "row 1 has more cells than the header: put texts in double quotes"),
        ("p.json", '[{"prompt": "a"}]', "call the file .jsonl"),
        ("p.parquet", "PAR1", "cannot read prompts from .*p.parquet"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "row 2: no column `prompt`"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "  "}\n', r"empty prompts in 1 of 2 rows \(row 2\): fix them"),
        ("p.csv", "id,prompt\n1,a\n2,\n", r"empty prompts in 1 of 2 rows \(row 2\): fix them"),
        ("p.jsonl", '{"prompt": 3}\n', "row 1: the prompt in prompt is int, not text"),
        ("p.jsonl", '{"prompt": "a", "id": ["b"]}\n', "row 1: the id in id is list, not text"),
        ("p.jsonl", '{"prompt": "\\ud800"}\n', "row 1: the prompt in prompt is not valid Unicode"),
        ("p.jsonl", "a cat\n", "line 1: not a JSON object"),
        (
            "p.jsonl",
            '{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}\n',
            r"repeated ids in 1 of 2 rows \('x'\): fix them",
        ),
        ("p.jsonl", '{"prompt": "a", "tags": {"basic": []}}\n', "tags need basic, advanced; these have basic"),
        ("p.jsonl", '{"prompt": "a", "tags": {"basic": 3, "advanced": []}}\n', "tags are malformed"),
        ("p.csv", "id;prompt\n1;a, b\n", "separates its cells by ';': write it with commas"),
        ("p.csv", "id,prompt\n1,a\nid,prompt\n2,b\n", "row 2 repeats the header: remove it"),
        ("p.csv", "id,prompt\n1,a\0b\n", "row 1: the prompt in prompt has a NUL character"),
        ("p.txt", "a\0 \0c\0", "row 1: the prompt in prompt has a NUL character"),
        ("p.jsonl", '{"prompt": "a", "id": true}\n', "row 1: the id in id is bool, not text"),
        ("p.csv", "prompt,tags\na,texture\n", "row 1, column tags: 'texture' is none of GenAI-Bench's skills"),
        ("p.csv", 'prompt,tags\na,"{""basic"": "\n', "column tags: not a JSON object"),
        ("p.jsonl", '{"prompt": "a", "corruptions": {"subject": "b"}}\n', "corruptions need subject, colour"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(NbenchError, match=message):
        read_prompts(tmp_path / name)


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(columns, ["prompt", "prompt"]), tmp_path / "p.parquet")
    with pytest.raises(NbenchError, match="has two columns prompt: rename or remove one"):
        read_prompts(tmp_path / "p.parquet")


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
    assert all(prompt.tags for prompt in bench)
    assert all(len(set((prompt.corruptions or {}).values()) | {prompt.text}) == 5 for prompt in bench + ncc)
    assert world_prompts("ncc", 10) == ncc[:10]


@pytest.mark.slow
def test_the_world_is_finite() -> None:
    with pytest.raises(NbenchError, match=r"only about .* different prompts: lower --limit 60000"):
        world_prompts("genai-bench", 60_000)


def test_corruptions_come_from_the_file_or_the_grammar_or_not_at_all() -> None:
    own, parsed, foreign = (
        Prompt("0", "a cat", None, NEAR),
        Prompt("1", "two red circles on gray background"),
        Prompt("2", "a cat"),
    )
    corrupted = corrupt_prompts([own, parsed, foreign])
    assert corrupted[0] == own
    assert corrupted[2] == foreign
    near = corrupted[1].corruptions or {}
    assert set(near) == set(NEAR)
    assert all(parse(str(text)).caption == text != parsed.text for text in near.values())


def test_parquet_and_tsv(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "prompt": "a cat", "tags": TAGS, "corruptions": NEAR, "image": b"\xff"},
        {"id": None, "prompt": "a dog", "tags": None, "corruptions": None, "image": b""},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == [Prompt("7", "a cat", TAGS, NEAR), Prompt("1", "a dog")]
    (tmp_path / "p.tsv").write_text('Prompt\tno\na cat, black\t../a\n"a ""big"" dog"\t\n')
    request = PromptRequest(tmp_path / "p.tsv", prompt_column="Prompt", id_column="no")
    assert load_prompts(request).prompts == [Prompt("../a", "a cat, black"), Prompt("1", 'a "big" dog')]


def test_parquet_with_nulls_for_absent_objects(tmp_path: Path) -> None:
    nothing = {"tags": dict.fromkeys(TAGS), "corruptions": dict.fromkeys(NEAR)}
    rows = [{"prompt": "a cat", "tags": TAGS, "corruptions": NEAR}, {"prompt": "a dog", **nothing}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet")[1] == Prompt("1", "a dog")


@pytest.mark.parametrize(
    ("stdin", "texts", "ids"),
    [
        (b"a cat\n\n a dog \n", ["a cat", "a dog"], ["0", "1"]),
        ('\ufeff \n{"prompt": "zw\u00f6lf", "id": "x"}\n{"prompt": "b"}'.encode(), ["zw\u00f6lf", "b"], ["x", "1"]),
    ],
)
def test_standard_input(stdin: bytes, texts: list[str], ids: list[str]) -> None:
    code = """
import sys
from nbench.builders.prompts.request import PromptRequest
from nbench.builders.prompts.choose import load_prompts
prompt_set = load_prompts(PromptRequest("-"))
print(ascii([prompt_set.source, [p.text for p in prompt_set.prompts], [p.id for p in prompt_set.prompts]]))
assert not {"torch", "datasets", "huggingface_hub"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], input=stdin, capture_output=True, check=False)
    assert done.stdout.decode().strip() == ascii(["file", texts, ids]), done.stderr.decode()


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_bad_rows_are_counted_or_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": str(i), "prompt": f"p{i}"} for i in range(10)]
    rows += [{"id": str(i), "prompt": "again"} for i in range(5)]
    rows += [{"prompt": None}, {"prompt": " "}]
    path = write(tmp_path / "p.jsonl", rows)
    message = "empty prompts in 2 of 17 rows (row 16, 17) and repeated ids in 5 of 17 rows ('0', '1', '2' and 2 more)"
    with pytest.raises(NbenchError) as raised:
        read_prompts(path)
    assert str(raised.value) == f"{path}: {message}: fix them, or build with --skip-bad, which leaves them out"
    prompt_set = load_prompts(PromptRequest(path, skip_bad=True))
    assert prompt_set.notes == (f"{path}: {message}: left out",)
    assert [prompt.text for prompt in prompt_set.prompts] == [f"p{i}" for i in range(10)]
    assert load_prompts(PromptRequest(path, limit=10)).notes == ()
    only_bad = write(tmp_path / "bad.jsonl", rows[-1:])
    with pytest.raises(NbenchError, match="no prompt is left"):
        load_prompts(PromptRequest(only_bad, skip_bad=True))


def test_a_sample_is_the_seeds_in_order_and_fair(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("".join(f"p{i:02d}\n" for i in range(20)))
    drawn = [load_prompts(PromptRequest(path, sample=5, seed=seed)).prompts for seed in range(400)]
    assert drawn[3] == load_prompts(PromptRequest(path, sample=5, seed=3)).prompts != drawn[4]
    for prompts in drawn:
        ids = [prompt.id for prompt in prompts]
        assert ids == sorted(set(ids))
        assert len(ids) == 5
    times = Counter(prompt.id for prompts in drawn for prompt in prompts)
    # 100 expected, with a standard deviation below 9
    assert len(times) == 20
    assert all(60 < count < 140 for count in times.values())
    assert load_prompts(PromptRequest(path, sample=20)).prompts == read_prompts(path)
    first = {prompt.id for prompt in load_prompts(PromptRequest(path, limit=6, sample=5)).prompts}
    assert first < {f"{i:02d}" for i in range(6)}
    with pytest.raises(NbenchError, match="20 prompts, fewer than --sample 21: lower it"):
        load_prompts(PromptRequest(path, sample=21))


CELLS = ("counting;spatial relation", "Counting | spatial_relation", "counting, Spatial-Relation;", "[counting,scene]")


@pytest.mark.parametrize("cell", CELLS)
def test_tags_as_people_write_them(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f'prompt,tags\na,"{cell}"\nb,\n')
    tags = {"basic": ["scene" if "scene" in cell else "spatial relation"], "advanced": ["counting"]}
    assert [prompt.tags for prompt in read_prompts(path)] == [tags, None]
    assert [prompt.text for prompt in load_prompts(PromptRequest(path, tags=("counting",))).prompts] == ["a"]


def test_lists_of_tags(tmp_path: Path) -> None:
    lines, table = tmp_path / "p.jsonl", tmp_path / "p.parquet"
    names: tuple[list[str] | None, ...] = ["counting", "attribute"], [], None
    expected = [{"basic": ["attribute"], "advanced": ["counting"]}, None, None]
    lines.write_text("".join(json.dumps({"prompt": "a", "tags": tags}) + "\n" for tags in names))
    pq.write_table(pa.table({"prompt": ["a"] * 3, "tags": pa.array(names, pa.list_(pa.string()))}), table)
    for path in (lines, table):
        assert [prompt.tags for prompt in read_prompts(path)] == expected
    pq.write_table(pa.table({"prompt": ["a", "b"], "basic_skills": ["scene, attribute", None]}), table)
    assert [prompt.tags for prompt in read_prompts(table)] == [
        {"basic": ["scene", "attribute"], "advanced": []},
        {"basic": [], "advanced": []},
    ]


HEADERS = {
    "prompt,Tags": "Tags",
    "prompt,skills,id": "skills",
    "prompt,tags,author": None,
    "prompt,my-tags,tags": "my-tags",
    "prompt,stages,advantage": None,
}


@pytest.mark.parametrize(("header", "unread"), HEADERS.items())
def test_columns_that_look_like_tags_are_named(tmp_path: Path, header: str, unread: str | None) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\na{',' * header.count(',')}\n")
    notes = load_prompts(PromptRequest(path)).notes
    assert notes == ((f"{path}: column {unread} is not read; prompts have their skills in tags",) if unread else ())


def test_tags_choose_prompts(tmp_path: Path) -> None:
    skills: list[tuple[list[str], list[str]]] = [(["scene"], []), ([], ["counting"]), (["attribute"], ["negation"])]
    rows: list[dict[str, object]] = [
        {"id": str(i), "prompt": f"p{i}", "tags": {"basic": basic, "advanced": advanced}}
        for i, (basic, advanced) in enumerate(skills)
    ]
    path = write(tmp_path / "p.jsonl", [*rows, {"id": "3", "prompt": "p3"}])

    def ids(*tags: str, limit: int | None = None) -> list[str]:
        return [prompt.id for prompt in load_prompts(PromptRequest(path, tags=tags, limit=limit)).prompts]

    assert ids("counting") == ["1"]
    assert ids("scene", "negation") == ["0", "2"]
    assert ids("advanced") == ["1", "2"]
    assert ids("advanced", limit=1) == ["1"]
    with pytest.raises(
        NbenchError, match="no prompt has the tag 'flying': there are advanced, attribute, basic, count"
    ):
        ids("scene", "flying")
    (tmp_path / "p.txt").write_text("a cat\n")
    with pytest.raises(NbenchError, match="no prompt has the tag 'scene': no prompt has tags"):
        load_prompts(PromptRequest(tmp_path / "p.txt", tags=("scene",)))


def test_the_world_is_a_source_too() -> None:
    assert load_prompts(PromptRequest()).prompts == world_prompts("genai-bench")
    assert load_prompts(PromptRequest("shapes", limit=7), "ncc").prompts == world_prompts("ncc", 7)
    drawn = load_prompts(PromptRequest("shapes", tags=("counting",), sample=4, seed=1))
    assert drawn.source == "shapes"
    assert all("counting" in [*(p.tags or {})["basic"], *(p.tags or {})["advanced"]] for p in drawn.prompts)
    with pytest.raises(NbenchError, match="shapes is not a table: leave --prompt-column"):
        load_prompts(PromptRequest("shapes", prompt_column="x"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("genai-bnch", "no prompts 'genai-bnch': .*; did you mean genai-bench?"),
        ("prompts", "give one of shapes, genai-bench, genai-bench-527, cc12m, user/name or a file"),
        ("a/b/c", "neither a name, nor a data set on the Hub, nor a file here"),
        ("none/such.csv", r"cannot read prompts from none/such.csv: No such file"),
    ],
)
def test_no_such_source(source: str, message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        load_prompts(PromptRequest(source))


def test_a_name_that_is_a_file_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "words").write_text("a cat\n")
    (tmp_path / "genai-bench").mkdir()
    assert load_prompts(PromptRequest("ann/words")).prompts == [Prompt("0", "a cat")]
    with pytest.raises(NbenchError, match="cannot read prompts from ann: Is a directory"):
        load_prompts(PromptRequest("ann"))


@pytest.mark.parametrize("numbers", [{"limit": 0}, {"sample": 0}])
def test_numbers_that_make_no_sense(numbers: dict[str, int]) -> None:
    with pytest.raises(NbenchError, match="0 is out of range: give 1 or more"):
        PromptRequest(**numbers)  # type: ignore[arg-type]


def test_prompts_that_are_cut_are_counted() -> None:
    from nbench.shapes.tokenizer import build_tokenizer

    short, long = (build_tokenizer(8), 8), (build_tokenizer(16), 16)
    words = [Prompt(str(n), " ".join(["red"] * n)) for n in range(1, 21)]
    lengths = [len(long[0](prompt.text)["input_ids"]) for prompt in words]
    assert count_too_long(words, [short]) == sum(length > 8 for length in lengths) > 0
    assert count_too_long(words, [short, long]) == count_too_long(words, [long]) == sum(n > 16 for n in lengths) > 0
    assert count_too_long(words * 60, [long]) == 60 * count_too_long(words, [long])
    assert count_too_long(words, []) == 0
    assert too_long_note(words[:2], [short]) == ""
    message = f"{sum(n > 16 for n in lengths)} of 20 prompts are longer than the 16 tokens that the text encoder sees"
    assert too_long_note(words, [short, long]).startswith(message)


def test_what_an_encoder_sees_is_what_the_pipeline_gives_it(tmp_path: Path) -> None:
    sd3, pixart = (
        load_pipeline(resolve_pipeline(str(save(tmp_path / save.__name__))), "float32", "cpu")
        for save in (save_sd3, save_pixart)
    )
    called = {"max_sequence_length": 5}
    assert [most for _, most in token_limits(sd3, called)] == [TOKENS, TOKENS, 5]  # two of CLIP, which heed it not
    assert [most for _, most in token_limits(pixart, called)] == [5]
    assert [most for _, most in token_limits(pixart, {})] == [TOKENS]  # fewer than the 300 of the pipeline
    tokens = pixart.encode_prompt("red " * 30, do_classifier_free_guidance=False, **called)[0]
    assert tokens.shape[1] == 5
