"""Training without dropout, for objectives that compare a model with what it was at its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every dropout of the model at probability 0, adapters' and whole layers' included; put back after.

    Some models keep the probability in a module of its own (`p`), some as a number that a functional dropout
    is given (`dropout`, `attention_dropout`, `layerdrop`, …). The mode is left alone: what computes
    activations again goes by it.
    """
    kept = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("drop" in name or (name == "p" and is_dropout(module)))
    ]
    try:
        for module, name, _ in kept:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def is_dropout(module: nn.Module) -> bool:
    """Whether this is one of torch's own dropouts, or derived from one."""
    return isinstance(module, nn.modules.dropout._DropoutNd)
