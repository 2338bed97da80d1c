"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Benchmarks run on one thread; another number of threads elsewhere rounds sums differently."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
