"""What is published, from data sets, models and results, and what it is worth to those who read it back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.jobs.object_store import ObjectStore
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.hub.package import pack

from ...s3_servers import S3Folder
from ..conftest import rows
from .hub_server import HubServer
from .publisher import SHARDS, Publisher


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_is_published_and_read_back(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    (bench_folder / ".hidden").write_text("secret")
    (bench_folder / "data" / ".test-00000-of-00003.parquet.tmp").write_text("half")
    (bench_folder / "data" / "test-00000-of-00009.parquet").write_text("of another build")
    (bench_folder / "checkpoint.pkl").write_text("pickle")
    before = contents(bench_folder)

    outcome = publish(bench_folder)

    assert contents(bench_folder) == before
    repo = hub.repos["dataset", "ann/bench"]
    remote = repo.files()
    assert sorted(remote) == sorted([".gitattributes", "README.md", "dataset.json", *SHARDS])
    assert all(remote[name].data == before[name] for name in ("dataset.json", *SHARDS))
    assert not repo.private
    sent = sum(len(file.data) for name, file in remote.items() if name != ".gitattributes")
    assert outcome.report == {
        "url": f"{hub.endpoint}/datasets/ann/bench",
        "commit": repo.oid("main"),
        "bytes": sent,
        "sent": 5,
    }
    assert "not sent  checkpoint.pkl" in outcome.output
    assert "sent 5/5 files" in outcome.process.stderr
    assert "%|" not in outcome.process.stderr  # no bars where nobody can watch them

    card = remote["README.md"].data.decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    seeds = list(rows(range(12)).seeds)
    assert json.loads(publish.python(blocks[0] + "print(rows[:]['seed'])")) == seeds
    output = publish.python(blocks[1] + "    print([*batch.seeds, *batch.latents[50].shape, *batch.images.shape])")
    batches = [json.loads(line) for line in output.splitlines()]
    assert [seed for batch in batches for seed in batch[:-8]] == seeds[:4] + seeds[5:]  # row 4 failed
    assert all(batch[-8:] == [len(batch) - 8, 4, 8, 8, len(batch) - 8, 16, 16, 3] for batch in batches)


@pytest.mark.slow
def test_a_data_set_is_published_from_a_bucket(
    publish: Publisher, hub: HubServer, bench_folder: Path, s3: S3Folder
) -> None:
    convert(ConvertConfig(str(bench_folder), s3.url))
    s3.proxy.requests.clear()
    report = publish(s3.url).report
    assert s3.proxy.count("GET .*/data/test-") == 3  # every shard is read once
    remote = hub.repos["dataset", "ann/bench"].files()
    assert all(remote[name].data == ObjectStore(s3.url).read(name) for name in ("dataset.json", *SHARDS))
    assert sorted(remote) == sorted([".gitattributes", "README.md", "dataset.json", *SHARDS])
    assert publish(s3.url).report == report | {"sent": 0}
    spoilt = f"{s3.url}/{SHARDS[1]}"
    size, _ = ObjectStore(s3.url).list("data")[SHARDS[1]]
    ObjectStore(s3.url).write(SHARDS[1], bytes(size))
    assert f"shard {spoilt} was changed" in publish(s3.url, repo_id="ann/other").error


@pytest.mark.slow
def test_publishing_again_sends_nothing(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    first = publish(bench_folder).report
    hub.requests.clear()
    assert publish(bench_folder).report == first | {"sent": 0}
    assert not hub.requested(r"PUT|POST .*/commit/")


@pytest.mark.slow
def test_what_changed_since_is_sent_alone(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    publish(bench_folder)
    (bench_folder / "scores").mkdir()
    (bench_folder / "scores" / "clip.parquet").write_bytes(b"scores")
    hub.requests.clear()
    assert publish(bench_folder).report["sent"] == 1
    assert len(hub.requested("PUT")) == 1
    assert hub.repos["dataset", "ann/bench"].files()["scores/clip.parquet"].data == b"scores"


def test_a_dry_run_asks_nobody(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    outcome = publish(bench_folder, token=None, dry_run=True)
    assert outcome.report["commit"] is None
    assert hub.requests == []
    size = (bench_folder / SHARDS[0]).stat().st_size
    assert f"{size:,}  {SHARDS[0]}" in outcome.output
    assert "pretty_name: Noisy-GenAI-Bench" in outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench", "ann/be nch", "ann/x/y", "ann/x--y"])
def test_names_the_hub_would_refuse(publish: Publisher, hub: HubServer, bench_folder: Path, name: str) -> None:
    assert repr(name) in publish(bench_folder, name).error
    assert hub.requests == []


@pytest.mark.slow
def test_a_taken_name_is_refused(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    publish(bench_folder)
    hub.requests.clear()
    info = json.loads((bench_folder / "dataset.json").read_text())
    (bench_folder / "dataset.json").write_text(json.dumps(info | {"fingerprint": "0" * 64}))
    assert "already holds something else at main (dataset.json" in publish(bench_folder).error
    assert not hub.writes

    publish(bench_folder, revision="v2").report  # noqa: B018
    repo = hub.repos["dataset", "ann/bench"]
    assert json.loads(repo.files("v2")["dataset.json"].data)["fingerprint"] == "0" * 64
    assert json.loads(repo.files("main")["dataset.json"].data)["fingerprint"] == info["fingerprint"]


@pytest.mark.slow
def test_half_built_or_changed_data_are_refused(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    shard = bench_folder / SHARDS[1]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert f"{SHARDS[1]} was changed" in publish(bench_folder).error
    shard.write_bytes(data[:-1])
    assert "missing or cut short" in publish(bench_folder).error
    info = json.loads((bench_folder / "dataset.json").read_text())
    (bench_folder / "dataset.json").write_text(json.dumps(info | {"shards": [*info["shards"][:2], None]}))
    assert "half built (2 of 3 shards)" in publish(bench_folder, dry_run=True, token=None).error
    assert hub.requests == []


def test_links_that_lead_out_are_refused(
    publish: Publisher, hub: HubServer, bench_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "private.txt").write_text("not to be sent")
    (bench_folder / "inside.txt").symlink_to("dataset.json")
    assert "inside.txt" in publish(bench_folder, dry_run=True, token=None).output
    (bench_folder / "outside.txt").symlink_to(tmp_path / "private.txt")
    assert "outside.txt links to a file outside" in publish(bench_folder, dry_run=True, token=None).error
    assert hub.requests == []


def test_a_user_s_readme_is_kept(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    (bench_folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nMy words.\n")
    publish(bench_folder)
    card = hub.repos["dataset", "ann/bench"].files()["README.md"].data.decode()
    assert "# Mine\n\nMy words.\n" in card
    assert "license: mit\n" in card
    assert card.count("license:") == 1
    assert card.index("My words.") < card.index("## Columns")
    assert (bench_folder / "README.md").read_text().endswith("My words.\n")


@pytest.mark.slow
def test_a_readme_edited_on_the_hub_is_kept(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    publish(bench_folder)
    repo = hub.repos["dataset", "ann/bench"]
    card = repo.files()["README.md"]
    edited = type(card)(card.data + b"\nWritten on the Hub.\n", False)
    repo.commit("main", repo.files() | {"README.md": edited}, "edit")
    assert publish(bench_folder).report["sent"] == 0
    assert repo.files()["README.md"] == edited


@pytest.mark.slow
def test_a_model_is_published_without_its_pickles(publish: Publisher, hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "no weights as safetensors" in publish(folder, "ann/model").error
    (folder / "model.safetensors").write_bytes(bytes(100))
    (folder / "training.json").write_text(json.dumps({"positions": [20, 30], "seed": 0, "preview": {}}))
    (folder / "checkpoint.pt").write_bytes(b"pickle")
    assert "half trained" in publish(folder, "ann/model").error
    assert hub.requests == []
    (folder / "checkpoint.pt").rename(folder / "pytorch_model.bin")
    assert publish(folder, "ann/model").report["url"] == f"{hub.endpoint}/ann/model"
    remote = hub.repos["model", "ann/model"].files()
    assert set(remote) == {".gitattributes", "README.md", "config.json", "model.safetensors", "training.json"}
    assert b"nbench evaluate --model ann/model" in remote["README.md"].data


@pytest.mark.slow
def test_results_are_published_as_a_data_set(publish: Publisher, hub: HubServer, tmp_path: Path) -> None:
    import pyarrow as pa

    from nbench.shards.scores import SCORE_SCHEMA, write_scores

    folder = tmp_path / "results"
    result = {"bench": "small", "rows": [], "n_prompts": 4, "n_candidates": 3}
    first, second = {"model": "clip", "nbench_version": "1"}, {"model": "mine", "provenance": {"nbench": "2"}}
    scores = pa.table([["p"], [0], [20], ["prompt"], [0.5], ["ok"]], schema=SCORE_SCHEMA)
    write_scores(folder / "small" / "clip.parquet", scores, {})
    assert "nothing to publish" in publish(folder, "ann/results").error
    for provenance in (first, second):  # as versions 1 and 2 of the format have it
        (folder / "small" / f"{provenance['model']}.json").write_text(json.dumps(result | provenance))
    publish(folder, "ann/results").report  # noqa: B018
    card = hub.repos["dataset", "ann/results"].files()["README.md"].data.decode()
    assert "| `small` | `clip` | `4` | `3` | `1` |\n| `small` | `mine` | `4` | `3` | `2` |" in card
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert publish.python(block + "print(scores[0]['score'])") == "0.5\n"


@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_that_is_a_link_is_not_left_out(bench_folder: Path, tmp_path: Path, inside: bool) -> None:
    target = (bench_folder if inside else tmp_path) / ".moved"
    (bench_folder / "data").rename(target)
    (bench_folder / "data").symlink_to(target)
    with pytest.raises(NbenchError, match=r"data links to a folder, whose files would be left out: replace it"):
        pack(bench_folder, "ann/bench", 1)
