"""Prompts on the Hub, with the real clients: the published sets in their schemas, any other, and what goes wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbench.builders.prompts.hub import is_hub_name

from ...shards.hub.hub_protocol import TOKEN
from ...shards.hub.hub_repos import StoredFile
from ...shards.hub.hub_server import HubServer

MODELS = ("DALLE_3", "SDXL_Turbo", "DeepFloyd_I_XL_v1", "Midjourney_6", "SDXL_2_1", "SDXL_Base")
GENAI, CC12M = "BaiqiL/GenAI-Bench", "CaptionEmporium/conceptual-captions-cc12m-llavanext"
NO_TAGS: dict[str, list[str]] = {"basic": [], "advanced": []}
_PROGRAM = """
import json, sys
from dataclasses import asdict
from nbench.builders.prompts.request import PromptRequest
from nbench.builders.prompts.choose import load_prompts
from nbench.errors import NbenchError

task = json.loads(sys.argv[1])
if task["without_datasets"]:
    sys.modules["datasets"] = None
answers = []
for request in task["requests"]:
    try:
        prompt_set = load_prompts(PromptRequest(**request))
        prompts = [asdict(prompt) for prompt in prompt_set.prompts]
        answers.append({"prompts": prompts, "source": prompt_set.source, "notes": prompt_set.notes})
    except NbenchError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""


@dataclass
class Reader:
    """Reads prompts in processes of their own, since the Hub's clients take their settings when they are imported."""

    hub: HubServer
    home: Path

    def __call__(
        self,
        *requests: dict[str, Any],
        token: str | None = TOKEN,
        without_datasets: bool = False,
        **environment: str,
    ) -> list[Any]:
        """For each request the dictionary of what came, or the error's text."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {"OMP_NUM_THREADS": "1", "USE_TORCH": "0", **self.hub.environment(self.home, token), **environment}
        task = json.dumps({"requests": requests, "without_datasets": without_datasets})
        command = [sys.executable, "-c", _PROGRAM, task]
        done = subprocess.run(command, env=kept | settings, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert not done.stderr  # neither bars nor warnings
        assert TOKEN not in done.stdout
        answers = json.loads(done.stdout)
        for answer in answers:
            assert "\n" not in answer.get("error", "")
        return [answer.get("error", answer) for answer in answers]


@pytest.fixture
def read(hub: HubServer, tmp_path: Path) -> Reader:
    return Reader(hub, tmp_path / "home")


def store(hub: HubServer, repo_id: str, files: dict[str, bytes], private: bool = False) -> None:
    repo = hub.create(repo_id, private=private)
    repo.commit("main", {path: StoredFile(data, True) for path, data in files.items()}, "data")


def parquet(rows: list[dict[str, Any]], images: tuple[str, ...] = ()) -> bytes:
    """A file as `datasets` writes it to the Hub, with images in the columns so called."""
    table = pa.Table.from_pylist(rows)
    for name in images:
        place = table.column_names.index(name)
        table = table.set_column(
            place, name, table[name].cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        )
    if images:
        text = {"dtype": "string", "_type": "Value"}
        ratings = {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"}
        features: dict[str, Any] = {name: {"_type": "Image"} for name in images}
        features |= {"Index": text, "Prompt": text, "HumanRatings": dict.fromkeys(MODELS, ratings)}
        features["Tags"] = {level: {"feature": text, "_type": "List"} for level in NO_TAGS}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def genai_rows(count: int, image_bytes: int) -> list[dict[str, Any]]:
    """Rows of the newer schema."""
    rng = np.random.default_rng(0)
    return [
        {
            "Index": f"{number:05d}",
            "Prompt": f"{number} cats on a mat",
            "Tags": {"basic": ["attribute", "scene"], "advanced": []}
            if number % 2
            else {"basic": [], "advanced": ["counting"]},
            "HumanRatings": {model: [5, 4, 3] for model in MODELS},
            **{model: {"bytes": rng.bytes(image_bytes), "path": None} for model in MODELS},
        }
        for number in range(count)
    ]


@pytest.mark.slow
def test_genai_bench_without_its_images_and_ratings(read: Reader, hub: HubServer) -> None:
    file = parquet(genai_rows(20, 100_000), MODELS)
    store(hub, GENAI, {"data/train-00000-of-00001.parquet": file})
    every, tagged, some = read(
        {"source": "genai-bench"},
        {"source": "genai-bench", "tags": ["counting"], "limit": 3},
        {"source": GENAI, "sample": 5, "seed": 3},
    )
    assert hub.sent < len(file) / 4
    assert every["source"] == "genai-bench"
    assert [prompt["id"] for prompt in every["prompts"]] == [f"{number:05d}" for number in range(20)]
    assert every["prompts"][1] == {
        "id": "00001",
        "text": "1 cats on a mat",
        "tags": {"basic": ["attribute", "scene"], "advanced": []},
        "corruptions": None,
    }
    assert [prompt["id"] for prompt in tagged["prompts"]] == ["00000", "00002", "00004"]
    assert some["source"] == f"hub:{GENAI}"
    ids = [prompt["id"] for prompt in some["prompts"]]
    assert ids == sorted(set(ids))
    assert len(ids) == 5


@pytest.mark.slow
def test_genai_bench_in_its_older_schema(read: Reader, hub: HubServer) -> None:
    skills = [("['attribute', 'part relation']", "[]"), ("", "counting, negation"), ('["scene"]', "")]
    rows = [
        {
            "id": f"{number:05d}",
            "prompt": f"{number} dogs",
            "basic_skills": basic,
            "advanced_skills": advanced,
            **{f"{model}_HumanRating": "[5, 5, 4]" for model in MODELS},
        }
        for number, (basic, advanced) in enumerate(skills)
    ]
    store(hub, GENAI, {"data/train-00000-of-00001.parquet": parquet(rows)})
    (bench,) = read({"source": "genai-bench"})
    assert [prompt["tags"] for prompt in bench["prompts"]] == [
        {"basic": ["attribute", "part relation"], "advanced": []},
        {"basic": [], "advanced": ["counting", "negation"]},
        {"basic": ["scene"], "advanced": []},
    ]
    assert [(prompt["id"], prompt["text"]) for prompt in bench["prompts"]][2] == ("00002", "2 dogs")


def genai_files(first: int, count: int) -> dict[str, bytes]:
    """The two JSON files of the archives, and an archive, of `count` prompts numbered from `first`."""
    numbers = range(first, first + count)
    prompts = {
        f"{number:05d}": {
            "id": f"{number:05d}",
            "prompt": f"{number} birds",
            "prompt in Chinese": f"{number} 只鸟",
            "models": {model: [1, 2, 3] for model in MODELS},
        }
        for number in numbers
    }
    skills = {
        "basic": list(numbers[:2]),
        "advanced": list(numbers[2:4]),
        "attribute": list(numbers[:2]),
        "part relation": [numbers[1]],
        "counting": list(numbers[2:4]),
    }
    listed = {"genai_image.json": prompts, "genai_skills.json": skills}
    return {name: json.dumps(content).encode() for name, content in listed.items()} | {"SDXL_Base.zip": bytes(10**6)}


def test_genai_bench_as_json_beside_archives(read: Reader, hub: HubServer) -> None:
    store(hub, "zhiqiulin/GenAI-Bench-527", genai_files(1, 5))
    store(hub, "BaiqiL/GenAI-Bench-1600", genai_files(0, 5))
    small, large, chinese, level, split = read(
        {"source": "genai-bench-527"},
        {"source": "BaiqiL/GenAI-Bench-1600"},
        {"source": "genai-bench-527", "prompt_column": "prompt in Chinese", "limit": 1},
        {"source": "genai-bench-527", "tags": ["advanced"]},
        {"source": "genai-bench-527:test"},
        without_datasets=True,  # which two JSON files do not need
    )
    assert not hub.requested(".*zip")
    assert small["source"] == "genai-bench-527"
    assert small["prompts"] == [
        {"id": f"{number:05d}", "text": f"{number} birds", "tags": tags, "corruptions": None}
        for number, tags in enumerate(
            [
                {"basic": ["attribute"], "advanced": []},
                {"basic": ["attribute", "part relation"], "advanced": []},
                {"basic": [], "advanced": ["counting"]},
                {"basic": [], "advanced": ["counting"]},
                NO_TAGS,
            ],
            1,
        )
    ]
    assert large["source"] == "hub:BaiqiL/GenAI-Bench-1600"
    assert [prompt["tags"] for prompt in large["prompts"]] == [prompt["tags"] for prompt in small["prompts"]]
    assert [prompt["text"] for prompt in chinese["prompts"]] == ["1 只鸟"]
    assert [prompt["id"] for prompt in level["prompts"]] == ["00003", "00004"]
    assert "no split 'test'" in split


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("genai_skills.json", {"flying": [1]}, "genai_skills.json of zhiqiulin/GenAI-Bench-527 is damaged at 'flying'"),
        ("genai_image.json", {"../etc": {"prompt": "x"}}, "genai_image.json .* is damaged at '../etc'"),
        ("genai_image.json", ["a"], "genai_image.json of zhiqiulin/GenAI-Bench-527 is damaged"),
        ("genai_image.json", {"00001": {"text": "x"}}, r"no column `prompt` \(it has id, text, tags\)"),
    ],
)
def test_damaged_json(read: Reader, hub: HubServer, name: str, content: Any, message: str) -> None:
    store(hub, "zhiqiulin/GenAI-Bench-527", genai_files(1, 3) | {name: json.dumps(content).encode()})
    (error,) = read({"source": "genai-bench-527"}, without_datasets=True)
    assert re.search(message, error)


def captions(numbers: range, words: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(numbers.start)
    return [
        {
            "key": f"{number:09d}",
            "url": f"https://example.org/{number}.jpg",
            "caption_llava": f"long {number} {rng.bytes(4 * words).hex()}",
            "caption_llava_short": f"short {number} {rng.bytes(words).hex()}",
            "caption": f"web {number}",
            "status": "success",
        }
        for number in numbers
    ]


def test_cc12m_is_streamed(read: Reader, hub: HubServer) -> None:
    shards = {
        f"data/train-{index:05d}-of-00005.parquet": parquet(captions(range(500 * index, 500 * (index + 1)), 200))
        for index in range(5)
    }
    store(hub, CC12M, shards)
    few, web, drawn = read(
        {"source": "cc12m", "limit": 3},
        {"source": "cc12m", "limit": 2, "prompt_column": "caption"},
        {"source": "cc12m", "limit": 400, "sample": 2},
    )
    assert len(hub.requested("GET .*train-00000")) > 0
    assert not hub.requested("GET .*train-0000[1-4]")
    assert hub.sent < 3 * len(shards["data/train-00000-of-00005.parquet"]) < sum(map(len, shards.values()))
    assert few["source"] == "cc12m"
    assert [prompt["id"] for prompt in few["prompts"]] == ["000000000", "000000001", "000000002"]
    assert few["prompts"][1]["text"].startswith("short 1 ")
    assert few["prompts"][1]["tags"] is None
    assert [prompt["text"] for prompt in web["prompts"]] == ["web 0", "web 1"]
    assert len({prompt["id"] for prompt in drawn["prompts"]}) == 2


@pytest.mark.slow
def test_cc12m_as_gzipped_lines_with_bad_rows(read: Reader, hub: HubServer) -> None:
    rows = captions(range(9))
    rows[4]["caption_llava_short"], rows[6]["key"], rows[7]["key"] = "  ", rows[0]["key"], rows[1]["key"]
    store(hub, CC12M, {"train.jsonl.gz": gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())})
    bad, left = read({"source": "cc12m"}, {"source": "cc12m", "skip_bad": True})
    message = (
        f"{CC12M} on the Hub: empty prompts in 1 of 9 rows (row 5) and "
        "repeated ids in 2 of 9 rows ('000000000', '000000001')"
    )
    assert bad.startswith(message)
    assert "--skip-bad" in bad
    assert left["notes"] == [f"{message}: left out"]
    assert [int(prompt["id"]) for prompt in left["prompts"]] == [0, 1, 2, 3, 5, 8]


@pytest.mark.slow
def test_any_data_set_with_its_columns_revision_and_split(read: Reader, hub: HubServer) -> None:
    old, new = (
        [{"name": f"{age}/../{i}", "words": f"{age} {i}", "tags": ["x"]} for i in range(3)] for age in ("old", "new")
    )
    store(
        hub, "ann/words", {"train.csv": b"name,words\n" + b"".join(f"{r['name']},{r['words']}\n".encode() for r in old)}
    )
    repo = hub.repos["dataset", "ann/words"]
    repo.tags["v1"] = repo.oid("main")
    two = {"train.jsonl": new, "test.jsonl": new[:1]}
    files = {name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in two.items()}
    repo.commit("main", {name: StoredFile(data, False) for name, data in files.items()}, "two splits")
    columns = {"prompt_column": "words", "id_column": "name"}
    train, numbered, tagged, unsaid, wrong, column, ids, revision = read(
        {"source": "ann/words:train", **columns},
        {"source": "ann/words:test", "prompt_column": "words"},
        {"source": "ann/words@v1", **columns, "limit": 2},
        {"source": "ann/words", **columns},
        {"source": "ann/words:validation", **columns},
        {"source": "ann/words:test"},
        {"source": "ann/words:test", "prompt_column": "words", "id_column": "number"},
        {"source": "ann/words@v9", **columns},
    )
    assert train["source"] == "hub:ann/words"
    assert [(prompt["id"], prompt["text"]) for prompt in train["prompts"]] == [
        (f"new/../{i}", f"new {i}") for i in range(3)
    ]
    assert train["prompts"][0]["tags"] is None  # a list of somebody's words is not skills
    assert [prompt["id"] for prompt in numbered["prompts"]] == ["00000000"]
    assert [prompt["text"] for prompt in tagged["prompts"]] == ["old 0", "old 1"]
    assert unsaid == "several splits in ann/words: write ann/words:SPLIT, with one of train, test"
    assert wrong == "no split 'validation' in ann/words: write ann/words:SPLIT, with one of train, test"
    assert (
        "ann/words on the Hub: no column `prompt` (it has name, words, tags): name one with --prompt-column" in column
    )
    assert "no column `number`" in ids
    assert "cannot read prompts from ann/words on the Hub" in revision
    assert "v9" in revision


@pytest.mark.slow
def test_what_the_hub_does_not_give(read: Reader, hub: HubServer) -> None:
    store(hub, "ann/secret", {"train.csv": b"prompt\na cat\n"}, private=True)
    store(hub, "ann/bare", {"notes.bin": b"nothing"})
    hidden, absent, bare, files = read(
        {"source": "ann/secret"},
        {"source": "ann/none"},
        {"source": "ann/bare"},
        {"source": "genai-bench-527"},
        token=None,
    )
    for error, name in ((hidden, "ann/secret"), (absent, "ann/none"), (files, "zhiqiulin/GenAI-Bench-527")):
        assert error.startswith(f"cannot read prompts from {name} on the Hub (")
        assert error.endswith("a private or gated data set needs `hf auth login`")
    assert bare.startswith("cannot read prompts from ann/bare on the Hub (")
    (secret,) = read({"source": "ann/secret"})
    assert [prompt["text"] for prompt in secret["prompts"]] == ["a cat"]


def test_no_network(read: Reader) -> None:
    streamed, files = read({"source": "cc12m"}, {"source": "genai-bench-527"}, HF_HUB_OFFLINE="1")
    assert streamed.startswith(f"cannot read prompts from {CC12M} on the Hub (")
    assert files.startswith("cannot read prompts from zhiqiulin/GenAI-Bench-527 on the Hub (")


@pytest.mark.parametrize("name", ["cc12m", "genai-bench@abc", "ann/x", "ann/x@v1.0", "ann/x@refs/pr/1:test", "ann/x:a"])
def test_names_on_the_hub(name: str) -> None:
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["ann", "genai", "ann/x/y", "/ann/x", "ann/x:", "ann/x@", "../x", "ann/..", ""])
def test_other_names(name: str) -> None:
    assert not is_hub_name(name)
