"""Tensors of which this process may hold a part only, because several processes train one model."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def held_here(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process, which is all of it where nothing is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """A sharded tensor as a whole, on the CPU of the first process, and nothing in the others.

    All processes are to ask for it at once. What is not sharded is given as it is.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor().detach()
    return whole.cpu() if dist.get_rank() == 0 else torch.empty(0)


def placed_like(values: Tensor, parameter: Tensor) -> Tensor:
    """Values that every process has all of, on the device and in the shards of a parameter of their shape.

    Of what is sharded no more than this process's share is kept.
    """
    values = values.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return values
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)
