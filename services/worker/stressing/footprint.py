"""How far a stressor moved the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class StressFailed(Exception):
    """A stressor that this model cannot be put under; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Footprint:
    """Counts over the parameters that a stressor may change; sums are float64."""

    weights: int = 0
    changed: int = 0
    squared_norm: float = 0.0
    squared_distance: float = 0.0

    @torch.no_grad()
    def note(self, before: Tensor, after: Tensor) -> None:
        """Count one parameter, before and after; shapes are the same, dtypes need not be."""
        before, after = before.detach().to(torch.float64), after.detach().to(torch.float64)
        self.weights += before.numel()
        self.changed += int((before != after).sum())
        self.squared_norm += float(before.square().sum())
        self.squared_distance += float((after - before).square().sum())

    @property
    def changed_share(self) -> float:
        """Share of the weights whose value is another."""
        return self.changed / self.weights if self.weights else 0.0

    @property
    def distance(self) -> float:
        """‖after − before‖ / ‖before‖, Frobenius, over all of them."""
        return math.sqrt(self.squared_distance / self.squared_norm) if self.squared_norm else 0.0
