"""What the trained models reach on held-out scenes: the figures of the model card, and their required values."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import torch

from ...benchmarks import metrics
from ...benchmarks.evaluate import evaluate
from ...benchmarks.evaluate_config import EvaluateConfig
from ...benchmarks.scoring.card import score_metadata
from ...benchmarks.scoring.score import score_bench
from ...scorers.clip import CLIPScorer
from ...scorers.vqascore import VQAScorer
from ...shards.reader import Bench, open_bench
from ...shards.scores import reference_path, write_scores
from ..grammar import CORRUPTION_KINDS, corrupt, parse, scenes
from ..render import render
from ..truth import matches

Figures = dict[str, float]
YES = 0.5


def answers(weights: Path, count: int = 2000, seed: int = 90) -> dict[str, Figures]:
    """How well CLIP and the VQA model tell true from corrupted captions of `count` rendered held-out scenes.

    clip: share of scenes whose true caption scores above the corrupted one, by kind. vqa: share of right answers to
    the true captions ("true"), and to the true and the corrupted captions of each kind together.
    """
    chosen = list(itertools.islice(scenes(seed, held_out=True), count))
    images = torch.from_numpy(render(chosen, np.random.default_rng(seed)).images).permute(0, 3, 1, 2) / 255
    rng = random.Random(seed)
    captions = {kind: [corrupt(scene, kind, rng).caption for scene in chosen] for kind in CORRUPTION_KINDS}
    true = [scene.caption for scene in chosen]

    clip, vqa = CLIPScorer(weights / "clip", reads="image"), VQAScorer(weights / "vqa")
    embeddings = clip.embed_inputs(images)

    def cosine(texts: list[str]) -> torch.Tensor:
        return (embeddings * clip.embed_text(texts)).sum(1)

    def yes(texts: list[str]) -> torch.Tensor:
        parts = [vqa.score(images[i : i + 250], texts[i : i + 250]) for i in range(0, count, 250)]
        return torch.cat(parts) > YES

    right, best = yes(true).float().mean().item(), cosine(true)
    return {
        "clip": _with_mean({kind: (best > cosine(captions[kind])).float().mean().item() for kind in CORRUPTION_KINDS}),
        "vqa": {"true": right}
        | _with_mean({kind: (right + (~yes(captions[kind])).float().mean().item()) / 2 for kind in CORRUPTION_KINDS}),
    }


def timeline(folder: Path, weights: Path, results: Path) -> dict[str, Figures]:
    """The figures of the world's models on its bench in `folder`.

    bench: its size; the share of images that the VQA model says yes to ("yes"), that show exactly their
    prompt ("right", see `truth`), and on which the two agree ("agreed"); frozen CLIP's mean within-prompt Spearman with
    VQAScore on the final image ("image"). clip_previews, noisyclip_previews: the same on previews, by position. lead,
    lead_low, lead_high: by how much NoisyCLIP's is above frozen CLIP's, paired by prompt, with its 95 % interval.
    """
    bench, scores = open_bench(folder), {}
    for name, judge in (
        ("clip", CLIPScorer(weights / "clip", reads="image")),
        ("vqascore", VQAScorer(weights / "vqa")),
    ):
        table = score_bench(bench, judge, [bench.info.steps])
        write_scores(reference_path(folder, name), table, score_metadata(bench.info, judge))
        scores[name] = table["score"].to_numpy().reshape(-1, bench.info.candidates)
    models = ("clip", "noisyclip")
    report = evaluate(EvaluateConfig(folder, tuple(str(weights / model) for model in models), "all", results))
    agreement = {
        f"{model}_previews": {
            str(row.position): float(row.spearman or 0.0)
            for row in report.rows
            if row.model == model and row.reference == "vqascore"
        }
        for model in models
    }
    paired = [row for row in report.comparisons if row.reference == "vqascore"]
    lead = {
        name: {str(row.position): float(getattr(row, field) or 0.0) for row in paired}
        for name, field in (("lead", "difference"), ("lead_low", "low"), ("lead_high", "high"))
    }
    image = float(metrics.mean_over_prompts(metrics.spearman(scores["clip"], scores["vqascore"])))
    return {"bench": _shares(bench, scores["vqascore"]) | {"image": image}} | agreement | lead


def second_generator(folder: Path, weights: Path) -> Figures:
    """Of the bench of the second generator in `folder`: its size, and the shares "yes", "right" and "agreed"."""
    bench = open_bench(folder)
    table = score_bench(bench, VQAScorer(weights / "vqa"), [bench.info.steps])
    return _shares(bench, table["score"].to_numpy())


def _shares(bench: Bench, vqa_scores: np.ndarray) -> Figures:
    yes = vqa_scores.ravel() > YES
    right = np.concatenate(
        [
            matches(batch.images, [parse(text) for text in batch.prompts])
            for batch in bench.batches(images=True)
            if batch.images is not None
        ]
    )
    size = {"prompts": bench.info.n_prompts, "candidates": bench.info.candidates}
    shares = {"yes": yes.mean(), "right": right.mean(), "agreed": (yes == right).mean()}
    return {name: float(value) for name, value in (size | shares).items()}


def shortfalls(figures: dict[str, Figures]) -> list[str]:
    """The requirements that the world misses, one line each."""
    clip, vqa, bench = figures["clip"], figures["vqa"], figures["bench"]
    preview, final = figures["clip_previews"], bench["image"]
    at = {int(position): value for position, value in preview.items()}
    last = at[max(at)]
    checks = {
        f"CLIP prefers the true caption in {clip['all']:.3f}, not .97": clip["all"] >= 0.97,
        f"CLIP's worst kind is {min(clip.values()):.3f}, not .95": min(clip.values()) >= 0.95,
        f"the VQA model is right in {vqa['all']:.3f}, not .90": vqa["all"] >= 0.90,
        f"the VQA model's worst kind is {min(vqa.values()):.3f}, not .80": min(vqa.values()) >= 0.80,
        f"the VQA model says yes to {bench['yes']:.3f} of the images, not .35-.75": 0.35 <= bench["yes"] <= 0.75,
        f"the finished preview reaches {last / final:.2f} of the image's Spearman, not .80": last >= 0.8 * final,
        f"the preview at position 5 reaches {at[5]:.2f}, not nearly 0": abs(at[5]) <= 0.15,
        f"NoisyCLIP's lead at 20 has an interval from {figures['lead_low']['20']:.3f}": figures["lead_low"]["20"] > 0,
        f"the preview at 20 has {at[20] / last:.2f} of its final Spearman, not .40-.90": 0.4 <= at[20] / last <= 0.9,
    }
    return [text for text, fine in checks.items() if not fine]


def _with_mean(by_kind: Figures) -> Figures:
    return by_kind | {"all": sum(by_kind.values()) / len(by_kind)}
