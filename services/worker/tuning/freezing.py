"""Which decoder blocks keep their weights while tuning, and the proof that they did."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from services.worker.language_models.loading import LanguageModel
from shared.recipes import Freeze


class FrozenWeightsChanged(Exception):
    """A weight that was to stay as it is has changed; `parameters` names every one that did."""

    def __init__(self, parameters: Sequence[str]) -> None:
        super().__init__(f"frozen weights changed while tuning: {', '.join(parameters)}")
        self.parameters = tuple(parameters)


def frozen_blocks(freeze: Freeze, edited_layers: Sequence[int]) -> tuple[int, ...]:
    """Indices of the blocks that `freeze` keeps as they are, in order."""
    match freeze:
        case Freeze.NONE:
            return ()
        case Freeze.EDITED:
            return tuple(sorted(set(edited_layers)))


def freeze_blocks_(language_model: LanguageModel, blocks: Sequence[int]) -> None:
    """Take every parameter of these blocks out of learning."""
    for block in blocks:
        language_model.model.get_submodule(language_model.anatomy.blocks[block]).requires_grad_(False)


@contextmanager
def unchanged_where_frozen(model: nn.Module) -> Iterator[None]:
    """Raise FrozenWeightsChanged unless every parameter without a gradient is bit for bit as it was."""
    before = {name: fingerprint(p) for name, p in model.named_parameters() if not p.requires_grad}
    yield
    changed = [name for name, kept in before.items() if fingerprint(model.get_parameter(name)) != kept]
    if changed:
        raise FrozenWeightsChanged(changed)


def fingerprint(parameter: torch.Tensor) -> bytes:
    """SHA-256 of a tensor's bytes."""
    content = parameter.detach().reshape(-1).view(torch.uint8).cpu()
    return hashlib.sha256(content.numpy().data).digest()
