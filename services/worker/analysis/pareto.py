"""Which of several choices nothing else beats on every count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dominated(objectives: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether another choice is as good on every count and better on one, (choices,) bool.

    objectives: (choices, counts) float64, more is better. Choices that are the same do not dominate each
    other.
    """
    other, this = objectives[None, :, :], objectives[:, None, :]  # (choices, choices, counts)
    beaten = np.all(other >= this, axis=2) & np.any(other > this, axis=2)
    found: NDArray[np.bool_] = np.any(beaten, axis=1)
    return found


def pareto_fronts(objectives: NDArray[np.float64]) -> NDArray[np.intp]:
    """Front of every choice, (choices,) from 1: what only earlier fronts dominate (Deb et al. 2002)."""
    fronts = np.zeros(len(objectives), dtype=np.intp)
    left = np.arange(len(objectives))
    front = 0
    while len(left):
        front += 1
        beaten = dominated(objectives[left])
        fronts[left[~beaten]] = front
        left = left[beaten]
    return fronts
