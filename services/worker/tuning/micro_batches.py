"""Fewer sequences at once, for when a GPU's memory does not hold a whole batch."""

from __future__ import annotations

from math import ceil


def smaller_micro_batch(batch_size: int, micro_batch: int, processes: int = 1) -> int | None:
    """The largest divisor of the batch size that is at most half of `micro_batch`; None below one.

    processes: share each of them out, so that one gives no process less to do when it is not below their
    number either.
    """
    smaller = (size for size in range(micro_batch // 2, 0, -1) if batch_size % size == 0)
    return next((size for size in smaller if ceil(size / processes) < ceil(micro_batch / processes)), None)
