"""Fewer sequences at once, for when a GPU's memory does not hold a whole batch."""

from __future__ import annotations


def smaller_micro_batch(batch_size: int, micro_batch: int) -> int | None:
    """The largest divisor of the batch size that is at most half of `micro_batch`; None below one."""
    return next((size for size in range(micro_batch // 2, 0, -1) if batch_size % size == 0), None)
