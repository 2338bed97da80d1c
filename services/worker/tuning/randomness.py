"""Seeds, and stretches of work that leave no trace in the random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def undisturbed_randomness(device: torch.device) -> Iterator[None]:
    """Give every random generator (Python, NumPy, torch on the CPU and on `device`) its state back."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Have torch choose deterministic kernels, warning where it knows none.

    On CUDA this needs CUBLAS_WORKSPACE_CONFIG in the environment before the process first multiplies.
    """
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
