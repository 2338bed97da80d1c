"""Tensors in shards: what a process keeps of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from services.worker.tuning.placement import held_here, placed_like


@pytest.fixture
def first_of_two() -> Iterator[DeviceMesh]:
    """The mesh of two processes, as the first one sees it; the second is made up."""
    dist.init_process_group("fake", rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


def test_no_more_than_the_share_is_kept(first_of_two: DeviceMesh) -> None:
    parameter = distribute_tensor(torch.zeros(6, 4), first_of_two, [Shard(0)], src_data_rank=None)
    whole = torch.arange(24.0).reshape(6, 4)
    placed = placed_like(whole, parameter)
    assert isinstance(placed, DTensor)
    assert torch.equal(held_here(placed), whole[:3])
    assert held_here(placed).untyped_storage().nbytes() == 12 * 4
