"""Two jobs run at a time, each with its share of the threads, where a module allows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from nbench.pipelines.lanes import Lanes, lanes_of


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


@pytest.mark.usefixtures("two_threads")
def test_jobs_run_at_a_time_and_share_the_threads() -> None:
    lanes, both = Lanes[str](2), threading.Barrier(2)

    def job() -> tuple[int, bool]:
        both.wait(60)
        return torch.get_num_threads(), torch.is_grad_enabled()

    lanes.start("one", job)
    lanes.start("other", job)
    assert lanes.running == ["one", "other"]
    results: list[tuple[str, tuple[int, bool]]] = []
    while lanes.running:
        results += lanes.results()
    assert sorted(results) == [("one", (1, False)), ("other", (1, False))]
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (2, 2)
    lanes.start("here", threading.get_ident, here=True)
    assert lanes.results() == [("here", threading.get_ident())]
    lanes.close()


def test_one_lane_computes_in_the_thread_that_starts_it() -> None:
    lanes = Lanes[int](1)
    lanes.start(7, threading.get_ident)
    assert lanes.running == [7]
    assert lanes.results() == [(7, threading.get_ident())]
    assert lanes.running == []
    lanes.close()


@pytest.mark.usefixtures("two_threads")
def test_only_modules_without_state_on_a_processor_are_computed_twice_at_a_time() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    assert lanes_of([module], compiled=False) == 2
    assert lanes_of([module], compiled=True) == 1
    assert lanes_of([module, torch.nn.Linear(2, 2, device="meta")], compiled=False) == 1
    handle = module[1].register_forward_hook(lambda *_: None)
    assert lanes_of([module], compiled=False) == 1
    handle.remove()
    torch.set_num_threads(1)
    assert lanes_of([module], compiled=False) == 1


@pytest.mark.usefixtures("two_threads")
def test_an_adapter_has_a_scale_of_each_call() -> None:
    peft = pytest.importorskip("peft")
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"]), module)
    assert lanes_of([module], compiled=False) == 1
