"""Changes of weights that are made one after another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from services.worker.language_models.weight_delta import (
    Dense,
    LowRank,
    WeightDelta,
    changed_weights,
    restored,
)


@contextmanager
def writing_to(model: nn.Module, names: Sequence[str]) -> Iterator["WrittenDeltas"]:
    """Add deltas to some parameters of a model, which are as they were, bit for bit, afterwards."""
    with restored(model, names):
        yield WrittenDeltas(model, names)


class WrittenDeltas:
    """What has been added to some parameters of a model, which has the sum of it, rounded once.

    So the model is, after every addition, what the modification makes of the base: half-precision weights
    do not lose many small changes in rounding.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model = model
        self.originals = {name: model.get_parameter(name).detach().clone() for name in names}
        self.totals: dict[str, LowRank | Dense] = {}

    def add(self, name: str, delta: LowRank | Dense) -> None:
        """Add one more delta to a parameter."""
        if name in self.totals:
            delta = added(self.totals[name], delta)
        self.totals[name] = delta
        with torch.no_grad():
            self.model.get_parameter(name).copy_(changed_weights(self.originals[name], delta))

    def modification(self, revision: str) -> WeightDelta:
        """All of it, as a change of the base model of this revision."""
        return WeightDelta(dict(self.totals), revision)


def added(first: LowRank | Dense, second: LowRank | Dense) -> LowRank | Dense:
    """The sum of two deltas of one parameter, as factors unless they would take more numbers."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        left = torch.cat([first.left, second.left], dim=1)
        right = torch.cat([first.right, second.right], dim=0)
        if left.numel() + right.numel() < left.shape[0] * right.shape[1]:
            return LowRank(left, right)
    device = (first.left if isinstance(first, LowRank) else first.values).device
    return Dense((first.dense(device) + second.dense(device)).float())
