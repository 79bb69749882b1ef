"""Inputs of scorers: signals, previews, decoded estimates, captions, and batches that fit in memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from nbench.benchmarks.scoring.card import score_metadata
from nbench.benchmarks.scoring.check_model import check_model
from nbench.benchmarks.scoring.options import ScoreOptions
from nbench.benchmarks.scoring.score import score_bench, score_shards
from nbench.errors import NbenchError
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.scorers.decoders import preview
from nbench.scorers.placement import CPU
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.shards.schema import PositionInfo

from ..signals_bench import CANDIDATES, LAYER, PROMPTS, make_signals_bench

ROWS = PROMPTS * CANDIDATES


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_signals_bench(tmp_path_factory.mktemp("bench") / "signals")


class Keeps:
    """A PairScorer that keeps what it is handed."""

    name, fingerprint = "keeps", "1"

    def __init__(self, reads: str) -> None:
        self.reads = reads
        self.inputs: list[torch.Tensor] = []
        self.prompts: list[str] = []

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.inputs.append(inputs)
        self.prompts += prompts
        return torch.zeros(len(inputs))


def handed(bench: Bench, reads: str, positions: Sequence[int], **options: Any) -> torch.Tensor:
    scorer = Keeps(reads)
    score_bench(bench, scorer, positions, options=ScoreOptions(**options))
    return torch.cat(scorer.inputs)


def stored(bench: Bench, position: int, signal: str) -> np.ndarray:
    batches = bench.batches([position], signals=(signal,))
    arrays = [(batch.x0 if signal == "x0" else batch.latents)[position] for batch in batches]
    return np.concatenate(arrays).astype(np.float32)


def column(table: pa.Table, name: str = "score") -> np.ndarray:
    return np.array(table[name].to_pylist())


def test_latents_and_estimates_come_as_stored(bench: Bench) -> None:
    np.testing.assert_array_equal(handed(bench, "latent", [5]), stored(bench, 5, "latent"))
    np.testing.assert_array_equal(handed(bench, "x0", [5]), stored(bench, 5, "x0"))
    np.testing.assert_array_equal(handed(bench, "x0", [10]), stored(bench, 10, "latent"))


def test_estimates_are_previewed_by_the_map_and_decoded_by_the_pipelines_vae(bench: Bench) -> None:
    x0 = stored(bench, 5, "x0")
    preview_map = bench.info.preview
    assert preview_map is not None
    linear = np.einsum("rc,bchw->brhw", preview_map.weight, x0) + np.array(preview_map.bias)[:, None, None]
    np.testing.assert_allclose(handed(bench, "x0_preview", [5]), linear.clip(0, 1), atol=1e-6)
    decoded, images = handed(bench, "x0_image", [10]), handed(bench, "image", [10])
    assert decoded.shape == images.shape == (ROWS, 3, 32, 32)
    assert (decoded - images).pow(2).mean() < 10**-2.5  # the VAE's own loss, about 30 dB
    from_folder = handed(bench, "x0_image", [10], vae=str(WORLD_PIPELINE))
    torch.testing.assert_close(from_folder, decoded)
    torch.testing.assert_close(handed(bench, "x0_image", [10], vae=str(WORLD_PIPELINE / "vae")), decoded)


def test_a_pipeline_that_is_gone_or_another_is_no_decoder(bench: Bench, tmp_path: Path) -> None:
    def made_by(name: str, content: str) -> Bench:
        return replace(bench, info=replace(bench.info, spec={"pipeline": {"name": name, "content": content}}))

    with pytest.raises(
        NbenchError,
        match=r"needs the VAE of the bench .*made with a local folder, and mine is not one.*give its folder with --vae",
    ):
        handed(made_by("mine", ""), "x0_image", [5])
    with pytest.raises(NbenchError, match=r"pipeline shapes is not the one that made this data set"):
        handed(made_by("shapes", "other"), "x0_image", [5])
    with pytest.raises(NbenchError, match=r"no model in .*config\.json"):
        handed(bench, "x0_image", [5], vae=str(tmp_path))


def test_tiny_decoders_make_larger_previews(bench: Bench, tmp_path: Path) -> None:
    import diffusers

    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    layers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    tiny: Any = diffusers.AutoencoderTiny(**blocks, **layers).eval()
    tiny.save_pretrained(tmp_path)
    how = f"tiny:{tmp_path}"
    ours = handed(bench, "preview", [5], preview=how)
    with torch.no_grad():
        theirs = tiny.decode(torch.from_numpy(stored(bench, 5, "latent"))).sample
    torch.testing.assert_close(ours, (theirs / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    scorer = get_scorer("clip", bench.info)
    plain, other = (score_metadata(bench.info, scorer, ScoreOptions(preview=kind)) for kind in ("linear", how))
    assert other != plain
    assert score_metadata(bench.info, scorer) == plain
    with pytest.raises(NbenchError, match="no tiny decoder is known for pipeline shapes"):
        handed(bench, "preview", [5], preview="tiny")
    with pytest.raises(NbenchError, match="unknown preview blurred"):
        handed(bench, "preview", [5], preview="blurred")


def test_cfg_gap_adds_up_the_steps_before_the_position(bench: Bench) -> None:
    table = score_bench(bench, get_scorer("cfg-gap", bench.info), [0, 5, 10])
    for position in (0, 5, 10):
        here = column(table)[column(table, "position") == position]
        np.testing.assert_allclose(here, np.arange(ROWS) * position)


def test_activations_are_there_before_the_final_position(bench: Bench) -> None:
    reference = column(bench.references["clip"])
    inputs = handed(bench, f"activations:{LAYER}", [5, 10])
    np.testing.assert_allclose(inputs[:, 0], reference, atol=1e-3)
    with pytest.raises(NbenchError, match="nothing that keeps could score"):
        handed(bench, f"activations:{LAYER}", [10])
    with pytest.raises(NbenchError, match=r"activations:blocks\.2 not in this bench"):
        handed(bench, "activations:blocks.2", [5])


def test_the_oracle_gives_the_reference_everywhere(bench: Bench) -> None:
    table = score_bench(bench, get_scorer("oracle", bench.info), [0, 10])
    np.testing.assert_array_equal(column(table)[: ROWS // 3], column(bench.references["clip"])[: ROWS // 3])
    assert np.unique(column(table, "position")).tolist() == [0, 10]
    with pytest.raises(NbenchError, match=r"no reference human in .*: it has clip; .* --add NAME=SCORER"):
        score_bench(bench, get_scorer("oracle:human", bench.info), [0])


class Told(Keeps):
    """A conditioned scorer: its score is the timestep."""

    conditioned = True

    def score(self, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:  # type: ignore[override]
        return torch.full((len(inputs),), at.timestep or 0.0)


def test_a_conditioned_scorer_is_told_the_position(bench: Bench) -> None:
    table = score_bench(bench, Told("latent"), [0, 5, 10])
    timesteps = dict(zip(column(table, "position"), column(table), strict=True))
    assert timesteps == {0: 1000.0, 5: 500.0, 10: 0.0}


@pytest.mark.parametrize("model", ["clip", "vqascore"])
def test_captions_are_scored_as_if_they_were_the_prompt(bench: Bench, model: str) -> None:
    scorer = get_scorer(model, bench.info)
    table = score_bench(bench, scorer, [10], options=ScoreOptions(captions=True))
    rows = table.to_pylist()
    prompts = [row for row in rows if row["caption"] == "prompt"]
    plain = score_bench(bench, scorer, [10]).to_pylist()
    assert [row["score"] for row in prompts] == pytest.approx([row["score"] for row in plain], abs=1e-6)
    corrupted = {(row["prompt_id"], row["candidate"], row["caption"]): row["score"] for row in rows}
    assert len(corrupted) == len(rows) > 2 * ROWS
    assert not [key for key in corrupted if key[0] == "p00" and key[2] != "prompt"]
    (batch,) = list(bench.batches([10], True, 15))[:1]
    assert batch.images is not None
    inputs = torch.from_numpy(batch.images[3:4]).permute(0, 3, 1, 2) / 255
    if model == "clip":
        assert bench.info.preview is not None
        inputs = preview(torch.from_numpy(batch.latents[10][3:4]), bench.info.preview)
    for kind, text in (batch.corruptions[3] or {}).items():
        if text:
            alone: Any = scorer
            score = (
                (alone.embed_text([text]) * alone.embed_inputs(inputs)).sum()
                if model == "clip"
                else alone.score(inputs, [text])
            )
            assert corrupted["p01", 0, kind] == pytest.approx(float(score), abs=1e-5)


def test_towers_embed_each_text_and_latent_once_with_captions(bench: Bench) -> None:
    class Counts:
        name, reads, fingerprint = "counts", "latent", "1"
        texts: list[str] = []  # noqa: RUF012
        rows = 0

        def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
            self.texts.extend(prompts)
            return torch.ones(len(prompts), 1)

        def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
            self.rows += len(inputs)
            return torch.ones(len(inputs), 1)

    scorer = Counts()
    score_bench(bench, scorer, [0, 5, 10], options=ScoreOptions(captions=True))
    corrupted = [
        text for batch in bench.batches() for row in batch.corruptions for text in (row or {}).values() if text
    ]
    assert sorted(scorer.texts) == sorted({*corrupted, *(prompt.prompt for prompt in bench.prompts)})
    assert scorer.rows == 3 * ROWS


def test_shards_come_one_by_one_and_together_make_the_table(bench: Bench) -> None:
    scorer = get_scorer("noisyclip", bench.info)
    parts = dict(score_shards(bench, scorer, [0, 5]))
    assert {index: len(part) for index, part in parts.items()} == {0: 30, 1: 30, 2: 12}
    assert pa.concat_tables(parts.values()).equals(score_bench(bench, scorer, [0, 5]))
    ((index, again),) = score_shards(bench, scorer, [0, 5], shards=[1])
    assert index == 1
    assert again.equals(parts[1])


class Small(Keeps):
    """Runs out of memory with more than four rows."""

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        super().score(inputs, prompts)
        if len(inputs) > 4:
            raise torch.OutOfMemoryError("no more")
        return inputs.mean((1, 2, 3))


def test_batches_are_halved_where_memory_ends(bench: Bench) -> None:
    scorer = Small("latent")
    table = score_bench(bench, scorer, [5])
    np.testing.assert_allclose(column(table), stored(bench, 5, "latent").mean((1, 2, 3)), atol=1e-6)
    sizes = [len(inputs) for inputs in scorer.inputs]
    assert sizes == [15, 7, *(3,) * 12]  # learnt once
    with pytest.raises(NbenchError, match="runs out of memory with 6 rows per batch"):
        score_bench(bench, Small("latent"), [5], options=ScoreOptions(batch_size=6))
    assert len(score_bench(bench, Small("latent"), [5], options=ScoreOptions(batch_size=3))) == ROWS


def test_models_are_checked_on_the_rows_of_a_bench(bench: Bench) -> None:
    for model in ("noisyclip", "x0-image", "cfg-gap", "oracle", "vqascore", "random"):
        assert check_model(model, str(bench.path), None, CPU)[1] == []
    with pytest.raises(NbenchError, match="vqascore reads image, which position 5 does not have"):
        check_model("vqascore", str(bench.path), 5, CPU)


TABLE = """
import torch

class Table:
    name, reads, fingerprint = "table", "nothing", "1"
    scores = {scores}

    def score_names(self, prompt_ids, candidates, position):
        return torch.tensor([self.scores[name] for name in zip(prompt_ids, candidates, strict=True)])
"""


def test_scorers_by_name_are_checked_on_the_names_of_a_bench(bench: Bench, tmp_path: Path) -> None:
    table = score_bench(bench, get_scorer("random", bench.info), [5])
    scores = {(row["prompt_id"], row["candidate"]): row["score"] for row in table.to_pylist()}
    (tmp_path / "mine.py").write_text(TABLE.format(scores=scores))
    model = f"{tmp_path / 'mine.py'}:Table"
    assert check_model(model, str(bench.path), None, CPU)[1] == []
    assert check_model(model, None, None, CPU)[1][0].startswith("score_names raises KeyError")  # made-up names
