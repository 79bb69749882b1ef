"""Run a scorer on a small batch and report what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import failure_of
from ..shards.schema import LatentSpace, PositionInfo, PreviewMap
from .apply import answer_misfit, widths_misfit
from .protocols import NameScorer, PairScorer, Scorer, TwinTower, embed_inputs, input_kind, score_pairs

ROWS = 6
PROMPTS = (
    "two red circles on gray background",
    "one blue square left of three green crosses on white background",
    "a dog",
    "four yellow stars above one purple triangle on black background",
    "one green circle",
    "three blue triangles on white background",
)
"""Of different lengths, so that padding matters."""
WORLD = LatentSpace(
    (4, 16, 16),
    PreviewMap(((0.1, 0, 0, 0), (0, 0.1, 0, 0), (0, 0, 0.1, 0)), (0.5, 0.5, 0.5)),
    image_size=(32, 32),
    positions=(PositionInfo(25, 500.0, 1.0, 1.0),),
    steps=50,
)
"""The embedded world's latent space, used without a bench."""
_CLOSE = 1e-3
"""Tolerance between results that should be equal, relative to the largest; float16 models stay within it."""


def made_up_inputs(scorer: Scorer, space: LatentSpace) -> torch.Tensor:
    """Random inputs of the kind a scorer reads, in the shapes of a bench; 64 activations if the width is unknown."""
    draw = torch.Generator().manual_seed(0)
    kind = input_kind(scorer.reads)
    if kind in ("latent", "x0"):
        return torch.randn(ROWS, *space.latent_shape, generator=draw)
    if kind in ("x0_image", "image"):
        return torch.rand(ROWS, 3, *space.image_size, generator=draw)
    if kind in ("preview", "x0_preview"):
        return torch.rand(ROWS, 3, *space.latent_shape[1:], generator=draw)
    if kind == "reference":
        return torch.rand(ROWS, generator=draw, dtype=torch.float64)
    config = getattr(scorer, "config", None)
    width = getattr(config, "dim", 64) if kind in ("activations", "attention") else 25
    return torch.rand(ROWS, width, generator=draw)


def check_scorer(scorer: Scorer, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> list[str]:
    """The problems of a scorer on these rows, one line each; empty if it follows its protocol.

    Args:
        inputs: B rows of what it reads; `prompts` has one prompt per row.
    """
    if isinstance(scorer, NameScorer):
        return check_names(scorer, prompts, range(len(prompts)), at.position)
    if isinstance(scorer, TwinTower):
        tower = scorer
        texts = _check("embed_text", lambda rows: tower.embed_text([prompts[row] for row in rows]), len(prompts), True)
        embeddings = _check("embed_inputs", lambda rows: embed_inputs(tower, inputs[rows], at), len(inputs), True)
        problems = [*texts, *embeddings]
        if not problems:
            widths = tower.embed_text(prompts[:1]).shape[1], embed_inputs(tower, inputs[:1], at).shape[1]
            problems += filter(None, [widths_misfit(*widths)])
        return problems
    assert isinstance(scorer, PairScorer)
    pair = scorer
    return _check(
        "score", lambda rows: score_pairs(pair, inputs[rows], [prompts[row] for row in rows], at), len(inputs), False
    )


def check_names(scorer: NameScorer, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> list[str]:
    """As `check_scorer`, for a NameScorer, on the names of B trajectories."""

    def scores(rows: list[int]) -> torch.Tensor:
        return scorer.score_names([prompt_ids[row] for row in rows], [candidates[row] for row in rows], position)

    return _check("score_names", scores, len(prompt_ids), unit=False)


def _check(method: str, call: Callable[[list[int]], Any], count: int, unit: bool) -> list[str]:
    rows = list(range(count))
    try:
        whole = call(rows)
    except Exception as error:  # user code can raise any type
        return [f"{method} raises {failure_of(error)}"]
    if misfit := answer_misfit(method, whole, count, wide=unit):
        return [misfit]
    problems = []
    if not whole.is_floating_point():
        problems.append(f"{method} returns {whole.dtype}, not floating point".replace("torch.", ""))
    whole = whole.detach().double().cpu()
    bad = (~torch.isfinite(whole.reshape(count, -1)).all(1)).sum().item()
    if bad:
        return [*problems, f"{method} returns NaN or infinity in {bad} of {count} rows"]
    if unit and not torch.allclose(whole.norm(dim=-1), torch.ones(count, dtype=torch.float64), atol=1e-2):
        low, high = whole.norm(dim=-1).aminmax()
        problems.append(f"{method} returns norms of {low:.3g} to {high:.3g}, not 1: divide by them")

    def differs(other: torch.Tensor) -> bool:
        difference = (other.detach().double().cpu() - whole).abs().max() if other.shape == whole.shape else float("inf")
        return bool(difference > _CLOSE * max(1e-3, float(whole.abs().max())))

    try:
        if differs(call(rows)):
            return [*problems, f"{method} is not deterministic: the same rows give other numbers on a second call"]
        order = np.random.default_rng(0).permutation(count).tolist()
        if differs(call(order)[torch.argsort(torch.tensor(order))]):
            problems.append(f"{method} depends on the order of the rows")
        if differs(torch.cat([call([row]) for row in rows])):
            problems.append(f"{method} depends on the batch: a row alone gives another number (padding? batch norm?)")
    except Exception as error:  # user code can raise any type
        problems.append(f"{method} raises {failure_of(error)} on rows in another order or alone")
    return problems
