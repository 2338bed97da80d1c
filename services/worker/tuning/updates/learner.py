"""A model that is ready to learn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Learner:
    """A model that is ready to learn.

    model: what the optimiser works on; `as_deployed()`: a context in which the language model has the
    weights and dtype that it would be deployed with; bfloat16_forward: whether forward passes of the
    training are to be cast to bfloat16, as mixed-precision training does.
    """

    model: nn.Module
    as_deployed: Callable[[], AbstractContextManager[None]]
    bfloat16_forward: bool = False

    @property
    def trained_parameters(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
