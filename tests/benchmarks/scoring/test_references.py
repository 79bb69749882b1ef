"""The reference scores of a data set: at the end of its build, and added later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessor, CLIPModel, LlavaForConditionalGeneration

import nbench
from nbench.benchmarks.scoring.card import score_metadata
from nbench.benchmarks.scoring.references import add_references, list_references
from nbench.benchmarks.scoring.references_config import AddConfig
from nbench.benchmarks.scoring.score import score_bench
from nbench.benchmarks.scoring.score_job import ScoreMaker
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.jobs.job import Unit
from nbench.jobs.options import EngineOptions
from nbench.jobs.status import at_work
from nbench.scorers.placement import Placement
from nbench.scorers.references import load_reference, parse_reference
from nbench.shards.dataset import DatasetFolder, read_info
from nbench.shards.formats import shard_writer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.scores import read_scores, reference_path, scores_at, scores_metadata, write_scores

from ...dataset_info import commit_shard
from ...scorers.tiny_models import save_clip, save_llava
from ...small_bench import CANDIDATES, PROMPTS, STEPS, make_bench

QUICK = BuildConfig("genai-bench", limit=3, candidates=2, steps=4, batch_size=4, references=("clip",))


def test_references_are_scored_once(tmp_path: Path) -> None:
    config = replace(QUICK, out=tmp_path / "bench")
    nbench.build(config, progress=False)
    path = tmp_path / "bench/scores/clip.parquet"
    table, written = read_scores(path), path.stat().st_mtime_ns
    assert (table.num_rows, set(table["position"].to_pylist())) == (6, {4})
    assert scores_metadata(table)["bench_fingerprint"] == read_info(tmp_path / "bench").fingerprint
    assert not (tmp_path / "bench/scores/vqascore.parquet").exists()
    nbench.build(replace(config, references=None), progress=False)
    assert path.stat().st_mtime_ns == written
    assert sorted(file.name for file in path.parent.iterdir()) == ["clip.parquet", "truth.parquet", "vqascore.parquet"]


def test_a_training_set_has_none(tmp_path: Path) -> None:
    nbench.build(BuildConfig("ncc", out=tmp_path / "ncc", limit=2, steps=3, positions="1"), progress=False)
    assert not (tmp_path / "ncc/scores").exists()


def test_what_cannot_be_scored_is_said_before_the_work(
    sd15_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NbenchError, match=r"unknown reference clipp \(did you mean clip\?\)"):
        nbench.build(replace(QUICK, out=tmp_path / "named", references=("clipp",)), progress=False)
    assert not (tmp_path / "named").exists()
    other = replace(QUICK, out=tmp_path / "bench", pipeline=str(sd15_folder))
    (tmp_path / "own.py").write_text(
        "class Broken:\n    name, reads, fingerprint = 'broken', 'image', '1'\n"
        "    def score(self, inputs, prompts): return inputs.missing\n"
    )
    with monkeypatch.context() as patched:
        patched.setattr("nbench.builders.shard_maker.Maker.shard", None)  # not one shard is made
        broken = f"broken={tmp_path}/own.py:Broken"
        for reference, reason in (("clip", "no model openai"), (broken, "score raises Attribute")):
            with pytest.raises(NbenchError, match=reason):
                nbench.build(replace(other, references=(reference,)), progress=False)
    nbench.build(replace(other, references=None))  # none was asked for
    err = capfd.readouterr().err
    for name in ("clip", "vqascore"):
        assert f"later: nbench references {tmp_path / 'bench'} --add {name}=SCORER" in err
    with pytest.raises(NbenchError, match="no model openai"):
        nbench.build(other, progress=False)


@pytest.mark.slow
def test_a_build_by_named_scorers_keeps_them(sd15_folder: Path, tmp_path: Path) -> None:
    judge = save_clip(tmp_path / "judge")
    config = replace(QUICK, out=tmp_path / "bench", pipeline=str(sd15_folder), references=(f"clip={judge}",))
    nbench.build(config, progress=False)
    path = tmp_path / "bench/scores/clip.parquet"
    assert scores_metadata(read_scores(path))["model"] == "judge"
    before = path.read_bytes()
    nbench.build(replace(config, references=None), progress=False)  # the default clip is another scorer
    assert path.read_bytes() == before
    nbench.build(replace(config, fresh=True), progress=False)
    assert path.read_bytes() == before


def fail_first_row(folder: Path) -> None:
    """Make the first row of a data set a failed one, in its shard and in its reference tables."""
    bench = open_bench(folder)
    batch = next(bench.batches(bench.info.stored, images=True, batch_size=bench.info.rows_per_shard))
    data_set = DatasetFolder(folder)
    writer = shard_writer(folder, bench.info, 0)
    writer.write(replace(batch, errors=["out of memory", *batch.errors[1:]]))
    commit_shard(data_set, 0, writer.commit())
    for path in (folder / "scores").glob("*.parquet"):
        table = read_scores(path)
        write_scores(path, table.slice(1), scores_metadata(table))


@pytest.mark.slow
def test_rows_that_are_made_again_are_added_to_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(QUICK, out=tmp_path / "bench", rows_per_shard=2)
    nbench.build(config, progress=False)
    own = f"light={tmp_path}/own.py:Own"
    (tmp_path / "own.py").write_text(
        "class Own:\n    name, reads, fingerprint = 'own', 'image', '1'\n"
        "    def score(self, images, prompts): return images.mean((1, 2, 3))\n"
    )
    add_references(AddConfig(tmp_path / "bench", (own,), False, Placement()))
    before = {name: read_scores(reference_path(tmp_path / "bench", name)) for name in ("clip", "light")}
    fail_first_row(tmp_path / "bench")
    listed = list_references(open_bench(tmp_path / "bench"))
    assert [(row.name, row.n_unscored) for row in listed] == [("clip", 1), ("light", 1)]
    shards, make = list[int](), ScoreMaker.make

    def spy(self: ScoreMaker, index: int, payload: object, folder: Path) -> Unit:
        shards.append(index)
        return make(self, index, payload, folder)

    monkeypatch.setattr(ScoreMaker, "make", spy)
    report = nbench.build(replace(config, retry_failed=True))
    assert (report.built, report.failed) == (1, 0)
    err = capsys.readouterr().err
    assert "reference light lacks scores of new rows" in err
    assert f"nbench references {tmp_path / 'bench'} --add light=SCORER" in err
    assert "reference clip lacks" not in err
    kept = read_scores(reference_path(tmp_path / "bench", "light"))
    assert kept.equals(before["light"].slice(1))
    add_references(AddConfig(tmp_path / "bench", (own,), False, Placement()))
    assert shards == [0, 0]  # of three shards, by each reference
    for name, table in before.items():
        after = read_scores(reference_path(tmp_path / "bench", name))
        assert scores_at(after, 4) == pytest.approx(scores_at(table, 4), abs=1e-3)
    nbench.build(replace(config, retry_failed=True))
    assert "lacks" not in capsys.readouterr().err


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path / "bench")[0]


def add(bench: Bench, *references: str, replace: bool = False) -> list[str]:
    return add_references(AddConfig(bench.path, references, replace, Placement())).names


def test_added_are_the_worlds_own(bench: Bench) -> None:
    assert add(bench, "clip", "vqascore") == ["clip", "vqascore"]
    for name in ("clip", "vqascore"):
        table = read_scores(reference_path(bench.path, name))
        scorer = load_reference(parse_reference(name), bench.info)
        assert table.num_rows == PROMPTS * CANDIDATES - 1
        assert scores_metadata(table) == score_metadata(bench.info, scorer) | {"scorer": name}
        assert table.equals(score_bench(bench, scorer, [STEPS]))
    rows = list_references(open_bench(bench.path))
    assert [(row.name, row.scorer, row.n_scored, row.n_unscored, row.flaw) for row in rows] == [
        ("clip", "clip", PROMPTS * CANDIDATES - 1, 1, ""),
        ("vqascore", "vqascore", PROMPTS * CANDIDATES - 1, 1, ""),
    ]


def test_added_scores_are_those_of_transformers(bench: Bench, tmp_path: Path) -> None:
    clip, llava = save_clip(tmp_path / "judge"), save_llava(tmp_path / "llava")
    add(bench, f"a={clip}", f"vqascore:{llava}")
    scores = {name: scores_at(read_scores(reference_path(bench.path, name)), STEPS) for name in ("a", "vqascore-llava")}
    model, words = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    pixels = CLIPImageProcessor.from_pretrained(clip)
    llava_model, processor = (
        LlavaForConditionalGeneration.from_pretrained(llava).eval(),
        AutoProcessor.from_pretrained(llava),
    )
    (batch, *_) = bench.batches(images=True, batch_size=5)
    assert batch.images is not None
    for row, prompt in enumerate(batch.prompts):
        key, image = (batch.prompt_ids[row], batch.candidates[row]), batch.images[row]
        with torch.no_grad():
            outputs = model(**pixels(images=[image], return_tensors="pt"), **words([prompt], return_tensors="pt"))
            chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text":
                    f'Does this figure show "{prompt}"? Please answer yes or no.'}]}]  # fmt: skip
            text = processor.apply_chat_template(chat, add_generation_prompt=True)
            logits = llava_model(**processor(images=[image], text=[text], return_tensors="pt")).logits[0, -1]
        cosine = (outputs.logits_per_image / model.logit_scale.exp()).item()
        assert scores["a"][key] == pytest.approx(cosine, abs=2e-3)
        yes = processor.tokenizer("Yes", add_special_tokens=False).input_ids[0]
        assert scores["vqascore-llava"][key] == pytest.approx(logits.softmax(-1)[yes].item(), abs=1e-5)


def test_a_name_belongs_to_its_scorer(bench: Bench, tmp_path: Path) -> None:
    judge = save_clip(tmp_path / "judge")
    assert add(bench, "clip") == ["clip"]
    path = reference_path(bench.path, "clip")
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    assert add(bench, "clip=image:clip") == []  # by another spelling
    write_scores(path, read_scores(path).slice(9), scores_metadata(read_scores(path)) | {"bench_fingerprint": "old"})
    assert add(bench, "clip") == ["clip"]  # the same scorer, of another build
    assert path.read_bytes() == before
    written = path.stat().st_mtime_ns
    with pytest.raises(NbenchError, match="has a reference clip already, by another: give another NAME=SCORER"):
        add(bench, f"new={judge}", f"clip={judge}")
    assert not reference_path(bench.path, "new").exists()  # all are refused, or none
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, written)
    assert add(bench, f"clip={judge}", replace=True) == ["clip"]
    assert path.read_bytes() != before
    path.write_bytes(b"damaged")
    assert add(bench, "clip", replace=True) == ["clip"]
    assert path.read_bytes() == before


def test_what_was_interrupted_goes_on_after_the_last_shard(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(bench.info.shards) == 3
    add(bench, "clip")
    whole = reference_path(bench.path, "clip").read_bytes()
    reference_path(bench.path, "clip").unlink()
    read, shards, most = Bench.shard_rows, list[int](), 2

    def counted(self: Bench, index: int, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        if "image" not in columns:
            return read(self, index, columns, batch_size)
        shards.append(index)
        if len(shards) > most:
            raise KeyboardInterrupt
        return read(self, index, columns, batch_size)

    monkeypatch.setattr(Bench, "shard_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        add(bench, "clip")
    assert shards == [0, 1, 2]
    assert not reference_path(bench.path, "clip").exists()
    parts = bench.path / "scores/.clip.parts"
    assert sorted(path.name for path in parts.glob("*.parquet")) == ["00000.parquet", "00001.parquet"]
    shards, most = [], 3
    add(bench, "clip")
    assert shards == [2]
    assert reference_path(bench.path, "clip").read_bytes() == whole
    assert not parts.exists()


def test_several_share_the_shards(bench: Bench) -> None:
    add(bench, "clip")
    path = reference_path(bench.path, "clip")
    whole = path.read_bytes()
    path.unlink()
    config = AddConfig(bench.path, ("clip",), False, Placement())
    assert add_references(config, workers=EngineOptions(rank="0", world_size=2)).left == 1
    assert [status.done for status in at_work(bench.path)] == [2]
    assert add_references(config, workers=EngineOptions(units="1")).left == 0
    assert not path.exists()
    assert add_references(config).names == ["clip"]
    assert path.read_bytes() == whole
    assert at_work(bench.path) == []


def test_references_at_a_url(bench: Bench) -> None:
    remote = replace(AddConfig("memory://remote", ("a=clip",)), placement=Placement())
    fsspec.filesystem("memory").put(f"{bench.path}/", "/remote/", recursive=True)
    assert add_references(remote).names == add(bench, "a=clip") == ["a"]
    assert open_bench("memory://remote").references["a"].equals(open_bench(bench.path).references["a"])


def test_data_sets_without_the_finished_latent_have_finished_images(tmp_path: Path) -> None:
    config = BuildConfig("ncc", out=tmp_path / "ncc", limit=3, steps=3, positions="1")
    nbench.build(config, progress=False)
    assert 3 not in open_bench(tmp_path / "ncc").info.stored
    assert add_references(AddConfig(tmp_path / "ncc", ("clip",))).names == ["clip"]
    (row,) = list_references(open_bench(tmp_path / "ncc"))
    assert (row.n_scored, row.n_unscored, row.flaw) == (3, 0, "")
