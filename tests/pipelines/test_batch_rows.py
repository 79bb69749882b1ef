"""Rows are cut wherever there are rows, and nowhere else; what was not computed comes back as zeros."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from nbench.errors import NbenchError
from nbench.pipelines.batch_rows import batch_of, cut, cut_call, rows_of, scatter


def test_guidance_repeats_the_batch() -> None:
    assert rows_of([0, 2], 3, 3) == [0, 2]
    assert rows_of([0, 2], 3, 6) == [0, 2, 3, 5]
    with pytest.raises(NbenchError, match="4 rows for 3 candidates"):
        rows_of([0, 2], 3, 4)


def test_every_batched_argument_is_cut() -> None:
    rows, total = [0, 3], 4
    batch, shared = torch.arange(4.0)[:, None], torch.zeros(1, 4)
    given = {
        "sample": batch,
        "timestep": torch.tensor(7),
        "added_cond_kwargs": {"text_embeds": batch, "image_embeds": [batch, batch]},
        "residuals": (batch, batch, batch, batch),
        "img_ids": batch,
        "shapes": [[(1, 8, 8)]] * 3 + [[(1, 4, 4)]],
        "mask": shared,
        "flag": None,
    }
    found = cut(given, rows, total, as_list=False)
    expected = batch[[0, 3]]
    assert torch.equal(found["sample"], expected)
    assert torch.equal(found["added_cond_kwargs"]["text_embeds"], expected)
    assert all(torch.equal(part, expected) for part in found["added_cond_kwargs"]["image_embeds"])
    assert len(found["residuals"]) == 4
    assert all(torch.equal(part, expected) for part in found["residuals"])
    assert found["img_ids"] is batch
    assert found["shapes"] == [[(1, 8, 8)], [(1, 4, 4)]]
    assert (found["mask"] is shared, found["timestep"], found["flag"]) == (True, torch.tensor(7), None)


def test_a_denoiser_that_takes_lists() -> None:
    latents = [torch.full((2, 4), float(i)) for i in range(2)]
    assert batch_of([latents]) == (2, True)
    found, _ = cut_call((latents, torch.arange(2)), {}, [1], 2, as_list=True)  # two arguments, two rows
    assert torch.equal(found[0][0], latents[1])
    assert found[1].tolist() == [1]
    whole = scatter((found[0], {}), [1], 2)[0]
    assert torch.equal(torch.stack(whole), torch.stack([torch.zeros(2, 4), latents[1]]))


def test_scatter_undoes_cut_with_zeros_for_the_rest() -> None:
    batch = torch.randn(4, 3)
    for output in (Transformer2DModelOutput(sample=batch[[1, 2]]), (batch[[1, 2]],)):
        whole = scatter(output, [1, 2], 4)
        assert type(whole) is type(output)
        assert torch.equal(whole[0], batch * torch.tensor([0, 1, 1, 0])[:, None])
