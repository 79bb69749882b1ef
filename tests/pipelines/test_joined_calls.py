"""Joined calls give what each gives alone; what cannot be joined runs by itself, and is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nbench.pipelines.batch_rows import BatchAxes, batch_axes
from nbench.pipelines.joined_calls import FAILED, INEXACT, MISFIT, JoinedCalls, Rows


class Denoiser(torch.nn.Module):
    """Rows by themselves, with a timestep of each row or of the call; remembers how many rows it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, sample: torch.Tensor, timestep: Any, ids: torch.Tensor, text: list[Any]) -> Any:
        self.sizes.append(len(sample))
        times = timestep.reshape(-1, 1) if timestep.ndim else timestep
        return (sample * times + ids.sum() + torch.stack(text).mean(1, keepdim=True),)


class OneTime(Denoiser):
    """Takes the first timestep for all rows."""

    def forward(self, sample: torch.Tensor, timestep: Any, ids: torch.Tensor, text: list[Any]) -> Any:
        return super().forward(sample, timestep.flatten()[0], ids, text)


class Mixing(Denoiser):
    """A row depends on the others."""

    def forward(self, sample: torch.Tensor, timestep: Any, ids: torch.Tensor, text: list[Any]) -> Any:
        return super().forward(sample - sample.mean(0), timestep, ids, text)


def call(rows: int, time: float, ids: float = 0.0, width: int = 3) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(rows + int(10 * time))
    sample, text = torch.rand(rows, width, generator=generator), torch.rand(rows, 1, generator=generator)
    return (sample, torch.tensor(time)), {"ids": torch.full((2,), ids), "text": list(text)}


AXES: BatchAxes = batch_axes(call(2, 1.0), call(3, 1.0))


def answers(joined: JoinedCalls, calls: list[Any]) -> list[Any]:
    rows = [Rows(each, AXES) for each in calls]
    kinds = [joined.kind(each) for each in rows]
    outputs: dict[int, Any] = {}
    for kind in dict.fromkeys(kinds):
        numbers = [number for number, each in enumerate(kinds) if each == kind]
        alike = joined.run(kind, [rows[number] for number in numbers], misfit=len(set(kinds)) > 1)
        outputs.update(zip(numbers, alike, strict=True))
    return [outputs[number] for number in range(len(calls))]


def ask(joined: JoinedCalls, calls: list[Any]) -> list[torch.Tensor]:
    return [output[0] for output in answers(joined, calls)]


def assert_alone(module: Denoiser, outputs: list[torch.Tensor], calls: list[Any]) -> None:
    fresh = type(module)()
    for output, (args, kwargs) in zip(outputs, calls, strict=True):
        assert torch.allclose(output, fresh(*args, **kwargs)[0])


def test_rows_keep_their_timesteps_and_the_first_meeting_is_checked() -> None:
    module, calls = Denoiser(), [call(2, 0.5), call(1, 0.1), call(3, 0.9)]
    joined = JoinedCalls(module)
    assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [2, 1, 3, 6]
    assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [2, 1, 3, 6, 6]
    assert (joined.calls, joined.batches, joined.rows, joined.alone) == (6, 4, 12, {})


def test_a_denoiser_with_one_timestep_joins_calls_of_equal_ones() -> None:
    module, calls = OneTime(), [call(2, 0.5), call(1, 0.1), call(3, 0.5)]
    joined = JoinedCalls(module)
    for _ in range(3):
        assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [*(2, 1, 3, 6), *(2, 3, 5, 1), *(5, 1)]
    assert joined.alone == {INEXACT: 2}


def test_rows_that_depend_on_each_other_are_never_joined() -> None:
    module, calls = Mixing(), [call(2, 0.5), call(1, 0.5)]
    joined = JoinedCalls(module)
    for _ in range(3):
        assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [2, 1, 3] + [2, 1] * 2
    assert joined.alone == {INEXACT: 4}


@pytest.mark.parametrize("other", [call(2, 0.5, ids=1.0), call(2, 0.5, width=4)])
def test_other_shapes_and_other_values_without_a_batch_run_by_themselves(other: Any) -> None:
    module, calls = Denoiser(), [call(2, 0.5), other]
    joined = JoinedCalls(module)
    for _ in range(2):
        assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [2, 2] * 2
    assert joined.alone == {MISFIT: 4}


def test_batches_are_bounded_and_filled_up_for_a_compiled_module() -> None:
    module, calls = Denoiser(), [call(2, 0.5), call(2, 0.1), call(2, 0.9)]
    joined = JoinedCalls(module, most_rows=5)
    for _ in range(2):
        assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [*(2, 2, 4, 2), *(4, 2)]
    module = Denoiser()
    joined = JoinedCalls(module, compiled=True)
    for _ in range(2):
        assert_alone(module, ask(joined, calls), calls)
    assert module.sizes == [*(2, 2, 2, 8), 8]


def test_a_call_that_fails_keeps_its_error_to_itself() -> None:
    class Fragile(Denoiser):
        failing = False

        def forward(self, sample: torch.Tensor, timestep: Any, ids: torch.Tensor, text: list[Any]) -> Any:
            if self.failing and (sample > 100).any():
                raise ZeroDivisionError
            return super().forward(sample, timestep, ids, text)

    module, calls = Fragile(), [call(2, 0.5), call(1, 0.1)]
    joined = JoinedCalls(module)
    ask(joined, calls)
    module.failing = True
    calls[1][0][0].fill_(1000.0)
    good, bad = answers(joined, calls)
    assert isinstance(bad, ZeroDivisionError)
    assert_alone(Denoiser(), [good[0]], calls[:1])
    assert joined.alone == {FAILED: 2}


def test_a_batch_that_does_not_fit_into_memory_is_made_smaller() -> None:
    class Small(Denoiser):
        def forward(self, sample: torch.Tensor, timestep: Any, ids: torch.Tensor, text: list[Any]) -> Any:
            if len(sample) > 5:
                raise torch.OutOfMemoryError("too much")
            return super().forward(sample, timestep, ids, text)

    module, pair = Small(), [call(2, 0.5), call(2, 0.1)]
    joined = JoinedCalls(module)
    ask(joined, pair)
    four = [*pair, call(2, 0.3), call(2, 0.7)]
    for _ in range(2):
        assert_alone(Denoiser(), ask(joined, four), four)
    assert module.sizes == [2, 2, 4] + [2] * 4 + [4, 4]
