"""Normalising features by all that have been seen so far (Gu et al. 2025, arXiv 2505.14679)."""

import torch
from torch import Tensor

EPSILON = 1e-7  # of a feature that never varies, such as a neuron that never fires


class LifelongNormalisation:
    """Mean and standard deviation of features, feature by feature, over every row that was added.

    Neither depends on how the rows were cut into batches.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)  # s², the sum of squared distances from the mean

    def add(self, features: Tensor) -> None:
        """Take some more rows, (rows, width) float64, into account (Chan et al. 1979)."""
        count = len(features)
        mean = features.mean(dim=0)
        together, distance = self.count + count, mean - self.mean
        self.squares += (features - mean).square().sum(dim=0)
        self.squares += distance.square() * self.count * count / together
        self.mean += distance * count / together
        self.count = together

    def normalised(self, features: Tensor) -> Tensor:
        """(features − μ) / (σ + ε), with σ² = s² / (N − 1)."""
        deviation = (self.squares / max(1, self.count - 1)).sqrt()
        return (features - self.mean) / (deviation + EPSILON)
