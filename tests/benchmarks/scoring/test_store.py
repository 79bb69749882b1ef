"""Scores on disk: kept, resumed after a kill, extended by positions and captions, and discarded if they do not fit."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats

from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.result_file import read_result
from nbench.benchmarks.results.terminal import report_table
from nbench.benchmarks.scoring.options import ScoreOptions, parse_batch_size
from nbench.benchmarks.scoring.score import score_bench
from nbench.benchmarks.scoring.store import Store
from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.shards.scores import read_scores, scores_metadata

from ...small_bench import STEPS, Quality
from ..signals_bench import make_signals_bench
from .counted_scorer import LATE, ROWS, SCORER, Counted


def test_only_what_is_missing_is_scored(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    scorer, out = Counted(tmp_path), tmp_path / "out"
    first = evaluate(scorer.config(bench[0], "5", out))
    assert scorer.taken() == 2 * ROWS
    again = evaluate(scorer.config(bench[0], "5", out))
    assert scorer.taken() == 0
    assert again.rows == first.rows
    assert again.costs == first.costs  # what scoring took then
    assert first.costs["brightness"].seconds_per_score
    more = evaluate(scorer.config(bench[0], "0,5,8", out))
    assert scorer.taken() == 2 * ROWS
    assert [row.position for row in more.rows] == [0, 5, 8, STEPS]
    table = out / "small/brightness.parquet"
    grown = table.read_bytes()
    evaluate(scorer.config(bench[0], "8", out))
    assert scorer.taken() == 0
    assert table.read_bytes() == grown
    evaluate(replace(scorer.config(bench[0], "all", out), fresh=True))
    assert scorer.taken() == 4 * ROWS
    assert table.read_bytes() == grown


def test_weights_are_loaded_before_any_score_and_only_if_there_is_something_to_score(
    bench: tuple[Bench, Quality], tmp_path: Path
) -> None:
    whole, broken = (tmp_path / f"{name}.py" for name in ("whole", "broken"))
    for file in (whole, broken):
        file.write_text(LATE.format(name=file.stem))
    config = EvaluateConfig(bench[0].path, (f"{whole}:whole", f"{broken}:broken"), "5", tmp_path / "out")
    with pytest.raises(NbenchError, match="scorer broken cannot be loaded: OSError: cut short"):
        evaluate(config)
    assert not list(tmp_path.glob("out/**/*.parquet"))  # refused before the first model scored
    only = replace(config, models=config.models[:1])
    first = evaluate(only)
    assert whole.with_suffix(".loaded").read_text() == ".."
    assert evaluate(only).rows == first.rows
    assert whole.with_suffix(".loaded").read_text() == ".."
    evaluate(replace(only, latents="8"))
    assert whole.with_suffix(".loaded").read_text() == "..."


def test_scores_of_a_scorer_that_has_changed_or_of_remade_rows_are_not_taken(
    bench: tuple[Bench, Quality], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scorer = tmp_path / "out", Counted(tmp_path / "one")
    config = scorer.config(bench[0], "5", out)
    evaluate(config)
    before = scorer.file.read_text()
    for text in (before.replace('"1"', '"2"'), before.replace("return ", "return -")):  # or its code alone
        scorer.taken()
        scorer.file.write_text(text)
        evaluate(config, progress=True)
        assert scorer.taken() == 2 * ROWS
        assert "brightness has changed since" in capsys.readouterr().err
    assert (np.array(read_scores(out / "small/brightness.parquet")["score"]) < 0).any()
    info = bench[0].info
    records = tuple(replace(record, sha256="0" * 64) for record in info.shards if record)
    remade = replace(bench[0], info=replace(info, shards=records))  # failed rows were made once more
    store = Store(out / "small/brightness.parquet", remade, _scorer(scorer, remade), ScoreOptions())
    store.scored([5, STEPS])
    assert scorer.taken() == 2 * ROWS
    store.path.write_bytes(b"damaged")
    store.scored([5, STEPS])
    assert scorer.taken() == 2 * ROWS


@pytest.mark.slow
def test_scores_of_others_of_the_same_name_are_not_replaced(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = Counted(tmp_path / "one"), Counted(tmp_path / "two", fingerprint="2")
    evaluate(first.config(bench[0], "5", out))
    table = out / "small/brightness.parquet"
    before = {path: path.read_bytes() for path in table.parent.iterdir() if path.is_file()}
    twin = make_signals_bench(tmp_path / "elsewhere/small", fingerprint="e" * 8)
    way_out = "give another --out, or --fresh to replace them"
    for config, whose in (
        (second.config(bench[0], "5", out), "another model called brightness"),
        (first.config(twin, "5", out), "another bench called small"),
    ):
        with pytest.raises(NbenchError, match=f"brightness.parquet has the scores of {whose}: {way_out}"):
            evaluate(replace(config, models=("random", *config.models)))
        assert {
            path: path.read_bytes() for path in table.parent.iterdir() if path.is_file()
        } == before  # none of the models is begun
        evaluate(replace(config, fresh=True))
        assert table.read_bytes() != before[table]
        evaluate(replace(first.config(bench[0], "5", out), fresh=True))
        before = {path: path.read_bytes() for path in table.parent.iterdir() if path.is_file()}
    table.unlink()  # what it measured is there
    with pytest.raises(NbenchError, match="another bench called small"):
        evaluate(first.config(twin, "5", out))
    evaluate(Counted(tmp_path / "three").config(bench[0], "5", out))  # the same by another path


def test_scores_by_other_previews_are_not_replaced(signals: Bench, tmp_path: Path) -> None:
    import diffusers

    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    layers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **layers).save_pretrained(tmp_path / "tiny")
    config = EvaluateConfig(signals.path, ("clip",), "0", tmp_path)
    evaluate(config)
    other = replace(config, options=ScoreOptions(preview=f"tiny:{tmp_path / 'tiny'}"))
    with pytest.raises(NbenchError, match="has the scores of other previews or of another VAE: give another --out"):
        evaluate(other)
    evaluate(replace(other, out=tmp_path / "other"))
    evaluate(config)


def _scorer(counted: Counted, bench: Bench):  # type: ignore[no-untyped-def]
    return get_scorer(f"{counted.file}:Brightness", bench.info)


def test_the_reference_itself_gains_all_and_chance_gains_nothing(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    rows = evaluate(EvaluateConfig(bench[0].path, ("oracle", "random"), "0,5", tmp_path)).rows
    assert {(row.model, row.position) for row in rows} == {
        (m, k) for m in ("oracle-clip", "random") for k in (0, 5, 10)
    }
    for row in rows:
        if row.model == "random":
            assert row.recovered_gain_ci is not None
            assert row.recovered_gain_ci[0] < 0 < row.recovered_gain_ci[1]
        else:
            assert (row.recovered_gain, row.oracle_gain, row.regret, row.top1) == (1, 1, 0, 1)
            assert row.spearman == pytest.approx(1)


@pytest.mark.slow
def test_captions_are_added_to_scores_and_tell_by_kind(signals: Bench, tmp_path: Path) -> None:
    config = EvaluateConfig(signals.path, ("clip",), "0", tmp_path)
    assert evaluate(config).separation == ()
    path = tmp_path / "signals/clip.parquet"
    plain = read_scores(path)
    report = evaluate(replace(config, options=ScoreOptions(captions=True)))
    table = read_scores(path)
    assert len(table) == len(plain) + 4 * 33 * 2  # four kinds of eleven prompts x three, at two positions
    assert table.filter(pc.equal(table["caption"], "prompt"))["score"].to_pylist() == pytest.approx(
        plain["score"].to_pylist(), abs=1e-6
    )
    assert read_result(report.files[0]).separation == report.separation
    screen = Console(file=StringIO(), width=160)
    screen.print(report_table(report))
    assert all(f"{row.auroc:.3f}" in screen.file.getvalue() for row in report.separation)  # type: ignore[attr-defined]
    by_kind = {row.kind: row for row in report.separation if row.position == STEPS}
    assert set(by_kind) == {"all", "subject", "colour", "quantity", "background"}
    last = table.filter(pc.equal(table["position"], STEPS))
    true, wrong = (
        last.filter(pc.equal(last["caption"], caption))["score"].to_numpy() for caption in ("prompt", "colour")
    )
    expected = stats.mannwhitneyu(true, wrong).statistic / (len(true) * len(wrong))
    assert by_kind["colour"].auroc == pytest.approx(expected)
    assert expected > 0.6  # drawn scenes, which CLIP knows
    evaluate(config)
    assert len(read_scores(path)) == len(table)  # what there was is kept
    assert scores_metadata(read_scores(path))["captions_at"] == [0, STEPS]


@pytest.mark.slow
def test_recall_is_that_of_all_similarities(signals: Bench, tmp_path: Path) -> None:
    config = EvaluateConfig(signals.path, ("clip", "cfg-gap"), "0", tmp_path, retrieval=True)
    report = evaluate(config)
    assert {row.model for row in report.retrieval} == {"clip"}  # the other has no embeddings
    scorer = get_scorer("clip", signals.info)
    prompts = [prompt.prompt for prompt in signals.prompts]
    similar = np.empty((len(prompts), 36))
    for number, prompt in enumerate(prompts):  # scored as if it were the prompt of all
        twin = _OneText(scorer, prompt)
        similar[number] = score_bench(signals, twin, [STEPS])["score"].to_numpy()
    own = np.arange(36) // 3
    rank = (similar > similar[own, np.arange(36)]).sum(0)
    recall = {(row.direction, row.k): row.recall for row in report.retrieval if row.position == STEPS}
    for k in (1, 5, 10):
        assert recall["latent_to_text", k] == pytest.approx((rank < k).mean(), abs=0.03)
    best = np.array([row[own == number].max() for number, row in enumerate(similar)])
    for k in (1, 5, 10):
        assert recall["text_to_latent", k] == pytest.approx(((similar > best[:, None]).sum(1) < k).mean(), abs=0.09)
    again = evaluate(config)
    assert again.retrieval == report.retrieval
    result = json.loads(report.files[0].read_text())
    assert len(result["retrieval"]) == 2 * 2 * 3


class _OneText:
    """A dual encoder that replaces every prompt by one text."""

    name, reads, fingerprint = "one", "preview", "1"

    def __init__(self, scorer, text: str) -> None:  # type: ignore[no-untyped-def]
        self._scorer, self._text = scorer, text

    def embed_text(self, prompts):  # type: ignore[no-untyped-def]
        return self._scorer.embed_text([self._text] * len(prompts))

    def embed_inputs(self, inputs):  # type: ignore[no-untyped-def]
        return self._scorer.embed_inputs(inputs)


def test_two_positions_read_their_columns_alone(
    bench: tuple[Bench, Quality], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, size: int, *, columns: list[str], row_groups: list[int]) -> object:
        read.extend(columns)
        return original(self, size, columns=columns, row_groups=row_groups)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    config = Counted(tmp_path).config(bench[0], "5", tmp_path / "out")
    evaluate(config)
    evaluate(replace(config, latents="0,5"))
    assert {name for name in read if name.startswith("latent") or name == "image"} == {
        "latent_00",
        "latent_05",
        "latent_10",
    }
    assert read.count("latent_05") == read.count("latent_00") > 0  # each once, though 5 is asked for twice


def test_results_are_not_written_into_a_data_set(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    files = sorted(path.name for path in bench[0].path.iterdir())
    with pytest.raises(NbenchError, match="is a data set, into which results would be written"):
        evaluate(EvaluateConfig(bench[0].path, ("random",), "5", bench[0].path.parent))
    assert sorted(path.name for path in bench[0].path.iterdir()) == files


def test_bad_input_is_refused_before_the_work(signals: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = EvaluateConfig(signals.path, ("clip",), "0", tmp_path / "file", fresh=True)
    with pytest.raises(NbenchError, match="cannot write"):
        evaluate(config)
    for text in ("0", "many", "-1"):
        with pytest.raises(NbenchError, match=f"--batch-size {text} is out of range: give auto, or 1 or more"):
            parse_batch_size(text)
    assert (parse_batch_size("auto"), parse_batch_size("7")) == (None, 7)
    with pytest.raises(NbenchError, match="--num-workers -1 is out of range"):
        ScoreOptions(ahead=-1)
    file = tmp_path / "bad.py"
    file.write_text(SCORER.format(fingerprint="1").replace('"brightness"', '"../brightness"'))
    with pytest.raises(NbenchError, match="cannot be the name of a result file"):
        evaluate(replace(config, out=tmp_path, models=(f"{file}:Brightness",)))
