"""Edits learned in parts of one matrix, and merged (WISE, section 2.3; TIES-Merging, 2306.01708)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def random_masks(shape: torch.Size, count: int, share: float, seed: int) -> list[Tensor]:
    """Which weights each shard may change: `count` masks of this shape, each weight with chance `share`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) < share for _ in range(count)]


def ties_merged(changes: Sequence[Tensor], density: float) -> Tensor:
    """One change of a matrix from several (TIES-Merging, algorithm 1).

    changes: all of one shape. Each is cut down to the `density` of its numbers that are largest in size;
    where they disagree in sign, those on the heavier side count; those that count are averaged.
    """
    trimmed = torch.stack([trim(change, density) for change in changes])
    counted = trimmed.where(trimmed.sign() == trimmed.sum(dim=0).sign(), torch.zeros_like(trimmed))
    return counted.sum(dim=0) / (counted != 0).sum(dim=0).clamp(min=1)


def trim(change: Tensor, density: float) -> Tensor:
    """The change with only the `density` of its numbers that are largest in size, and zeros elsewhere."""
    numbers = change.flatten()
    largest = numbers.abs().topk(max(1, round(density * len(numbers)))).indices
    trimmed = torch.zeros_like(numbers)
    trimmed[largest] = numbers[largest]
    return trimmed.view(change.shape)
