"""Seeds, and stretches of work that leave no trace in the random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomStates:
    """Where the random generators stand.

    python, numpy: as `random.getstate()` and `np.random.get_state()` give them; cpu, gpu: torch's
    generators, as uint8 tensors; gpu: None for work on the CPU.
    """

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    cpu: Tensor
    gpu: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomStates:
        """The states at this moment, those of `device` included."""
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(random.getstate(), tuple(np.random.get_state()), torch.get_rng_state(), gpu)

    def restore(self, device: torch.device) -> None:
        """Have every generator go on from here."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, device)


@contextmanager
def undisturbed_randomness(device: torch.device) -> Iterator[None]:
    """Give every random generator (Python, NumPy, torch on the CPU and on `device`) its state back."""
    before = RandomStates.now(device)
    try:
        yield
    finally:
        before.restore(device)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Have torch choose deterministic kernels, warning where it knows none.

    On CUDA this needs CUBLAS_WORKSPACE_CONFIG in the environment before the process first multiplies.
    New tensors are not filled, which torch would do to catch reads of what was never written: it takes time.
    """
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic  # its stub does not know this setting
    filled = filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
        filling.fill_uninitialized_memory = filled
