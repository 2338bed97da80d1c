"""Batches that do not fit into memory are halved until they do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch

from services.worker.language_models.memory import Batches, GpuMemory, OutOfGpuMemory

WHAT = "prompts were scored"


class Worker:
    """Work that holds at most `room` items at once, and remembers what it was given and what it did."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []
        self.done: list[int] = []

    def __call__(self, items: Sequence[int]) -> None:
        self.tried.append(len(items))
        if len(items) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.done += items


@pytest.mark.parametrize("room", [1, 2, 3, 5, 7, 100])
def test_every_item_is_done_once_and_in_order_whatever_fits(room: int) -> None:
    worker = Worker(room)
    GpuMemory().run(WHAT, [range(7), range(7, 9), range(9, 20)], worker)
    assert worker.done == list(range(20))


def test_batches_that_fit_are_left_whole_without_a_warning() -> None:
    memory, worker = GpuMemory(), Worker(room=8)
    memory.run(WHAT, [range(8), range(8)], worker)
    assert worker.tried == [8, 8]
    assert memory.warnings == []


def test_later_batches_of_the_kind_begin_at_what_fitted() -> None:
    memory, worker = GpuMemory(), Worker(room=2)
    memory.run(WHAT, [range(8), range(8)], worker)
    assert worker.tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    other = Worker(room=8)
    memory.run("edits were optimised", [range(8)], other)
    assert other.tried == [8]


def test_warning_says_how_many_were_done_at_a_time_and_how_many_were_meant_to_be() -> None:
    memory = GpuMemory()
    memory.run(WHAT, [range(8)], Worker(room=2))
    assert memory.warnings == ["ran out of GPU memory; prompts were scored 2 at a time instead of 8"]


def test_item_that_does_not_fit_alone_ends_the_work() -> None:
    with pytest.raises(OutOfGpuMemory, match=r"although prompts were scored one at a time: CUDA out of mem"):
        GpuMemory().run(WHAT, [range(4)], Worker(room=0))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def fail(_: Sequence[int]) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        GpuMemory().run(WHAT, [range(4)], fail)


def test_what_a_failed_pass_held_is_let_go_before_the_next() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(items: Sequence[int]) -> None:
        assert all(reference() is None for reference in held)
        activations = torch.zeros(len(items))
        held.append(weakref.ref(activations))
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    gc.disable()
    try:
        GpuMemory().run(WHAT, [range(8)], work)
    finally:
        gc.enable()
    assert len(held) == 3 + 8


def test_batches_keep_to_a_budget_of_tokens_and_to_what_fits() -> None:
    batches, worker = Batches(token_budget=12), Worker(room=2)
    batches.run(WHAT, [3, 3, 3, 3, 4, 4], worker)
    assert worker.tried == [3, 2, 1, 2, 1]
    assert sorted(worker.done) == list(range(6))
