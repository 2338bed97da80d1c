"""What tells edits from everything else by how far the two memories lie apart (WISE, eq. 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Margins:
    """α, β and γ: Euclidean distances between what the two memories put out."""

    alpha: float
    beta: float
    gamma: float

    def excess(self, irrelevant: Tensor) -> Tensor:
        """How far irrelevant tokens, (tokens,), differ more than α: the mean of those that do."""
        return mean_of_positive(irrelevant - self.alpha)

    def shortfall(self, edited: Tensor, irrelevant: Tensor) -> Tensor:
        """How far each token of an edit, (edited,), differs less than β, and than the irrelevant ones plus γ.

        The latter is the mean over those irrelevant tokens, (tokens,), that come too close: (edited,).
        """
        gaps = self.gamma - (edited[:, None] - irrelevant)  # (edited, tokens)
        return (self.beta - edited).relu() + mean_of_positive(gaps)


def distances(change: Tensor, activations: Tensor) -> Tensor:
    """How far a change of the down-projection, (hidden, d_ff), moves what it puts out, Δ_act (WISE, eq. 2).

    activations: what it takes, (tokens, d_ff). Returns (tokens,); the gradient is zero where nothing moves.
    """
    squares = (activations @ change.T).square().sum(dim=-1)
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


def mean_of_positive(values: Tensor) -> Tensor:
    """The mean over the last dimension of the values above zero; zero where there are none."""
    return values.relu().sum(dim=-1) / (values > 0).sum(dim=-1).clamp(min=1)
