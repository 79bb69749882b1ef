"""Rows are cut wherever there are rows, and nowhere else; what was not computed comes back as zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from nbench.errors import NbenchError
from nbench.pipelines.batch_axes import axes_of
from nbench.pipelines.batch_rows import Call, batch_axes, rows_of, scatter


def test_guidance_repeats_the_batch() -> None:
    assert rows_of([0, 2], 3, 3) == [0, 2]
    assert rows_of([0, 2], 3, 6) == [0, 2, 3, 5]
    with pytest.raises(NbenchError, match="4 rows for 3 candidates"):
        rows_of([0, 2], 3, 4)


def call(total: int, **more: Any) -> Call:
    """Arguments of `total` rows, of which the first place of each tensor of a batch tells the number."""
    batch = torch.arange(total).float()[:, None].repeat(1, 4)  # 4 channels, as many as there may be rows
    named = {
        "timestep": torch.tensor(7),
        "added_cond_kwargs": {"text_embeds": batch, "image_embeds": [batch, batch]},
        "residuals": (batch,) * 4,
        "layers": torch.stack([batch] * 3),  # HiDream: [layers, B, D]
        "ids": torch.arange(4.0)[:, None],
        "places": torch.zeros(1, 4),
        "shapes": [[(1, 8, 8)]] * (total - 1) + [[(1, 4, 4)]],
        "lengths": [3, 5, 7, 9],
        "flag": None,
    }
    return (batch,), named | more


def test_every_argument_with_the_batch_is_cut_on_its_axis_and_no_other() -> None:
    (sample,), found = batch_axes(call(2), call(3)).cut(call(4), [0, 3], 4)
    given = call(4)[1]
    expected = call(4)[0][0][[0, 3]]
    assert torch.equal(sample, expected)
    assert torch.equal(found["added_cond_kwargs"]["text_embeds"], expected)
    assert all(torch.equal(part, expected) for part in found["added_cond_kwargs"]["image_embeds"])
    assert len(found["residuals"]) == 4
    assert all(torch.equal(part, expected) for part in found["residuals"])
    assert torch.equal(found["layers"], torch.stack([expected] * 3))
    assert found["shapes"] == [[(1, 8, 8)], [(1, 4, 4)]]
    for name in ("timestep", "ids", "places"):
        assert torch.equal(found[name], given[name])
    assert (found["lengths"], found["flag"]) == ([3, 5, 7, 9], None)


def test_a_denoiser_that_takes_lists() -> None:
    def listed(total: int) -> Call:
        return ([torch.full((2, 4), float(i)) for i in range(total)], torch.arange(total)), {}

    (latents, timesteps), _ = batch_axes(listed(2), listed(3)).cut(listed(2), [1], 2)
    assert [float(one[0, 0]) for one in latents] == [1.0]
    assert timesteps.tolist() == [1]
    whole = scatter((latents, {}), [1], 2)[0]
    assert torch.equal(torch.stack(whole), torch.stack([torch.zeros(2, 4), latents[0]]))


@pytest.mark.parametrize(
    "odd",
    [
        lambda total: torch.zeros(5 * total, 4),  # rows and tokens in one axis
        lambda total: torch.zeros(total, total),
        lambda total: [1] * (total + 1),
        lambda total: torch.zeros((4,) * total),
    ],
)
def test_what_changes_with_the_batch_in_another_way_is_refused(odd: Any) -> None:
    with pytest.raises(NbenchError, match=r"denoiser's argument more\.odd belong to which candidate cannot be told"):
        batch_axes(call(2, more={"odd": odd(2)}), call(3, more={"odd": odd(3)}))


def test_so_is_what_comes_later_and_may_hold_the_batch() -> None:
    axes = batch_axes(call(2), call(3))
    axes.cut(call(4, extra=torch.zeros(3, 5)), [0], 4)
    assert axes.cut(call(4, shapes=[[(1, 8, 8)]]), [0], 4)[1]["shapes"] == [[(1, 8, 8)]]  # one for all
    for later in ({"extra": torch.zeros(4, 5)}, {"layers": torch.zeros(3, 2, 4)}, {"shapes": [[(1, 8, 8)]] * 3}):
        with pytest.raises(NbenchError, match=f"argument {next(iter(later))} belong"):
            axes.cut(call(4, **later), [0], 4)


def test_scatter_undoes_cut_with_zeros_for_the_rest() -> None:
    batch = torch.randn(4, 3)
    for output in (Transformer2DModelOutput(sample=batch[[1, 2]]), (batch[[1, 2]],)):
        whole = scatter(output, [1, 2], 4)
        assert type(whole) is type(output)
        assert torch.equal(whole[0], batch * torch.tensor([0, 1, 1, 0])[:, None])


def test_trial_calls_show_no_progress_bar(sd15_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipe = DiffusionPipeline.from_pretrained(sd15_folder)
    pipe.set_progress_bar_config(desc="mine", disable=False)
    capfd.readouterr()
    axes_of(pipe, {"num_inference_steps": 2})
    assert capfd.readouterr().err == ""
    pipe("red", num_inference_steps=2, output_type="latent")
    assert "mine" in capfd.readouterr().err  # the user's own setting is back
