"""Magnitude pruning: the weights nearest to zero become zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prune_by_magnitude(weight: Tensor, share: float) -> Tensor:
    """The ⌊share·n⌋ of the n weights with the smallest |w| set to zero; of equal ones, the first.

    As in Han et al. (arXiv 1506.02626), one threshold per matrix, nothing trained afterwards.
    """
    count = math.floor(share * weight.numel())
    smallest = weight.abs().flatten().argsort(stable=True)[:count]
    pruned = weight.flatten().clone()
    pruned[smallest] = torch.zeros((), dtype=weight.dtype, device=weight.device)
    return pruned.reshape(weight.shape)
