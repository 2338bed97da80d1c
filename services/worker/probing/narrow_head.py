"""Running a model so that its head sees only the positions at which something is asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from services.worker.language_models.batching import TokenBatch
from services.worker.language_models.loading import LanguageModel


def logits_at(
    language_model: LanguageModel, arguments: Mapping[str, Any], rows: Tensor, columns: Tensor
) -> Tensor:
    """Logits at the given rows and columns of what the model reads: (scored, vocabulary), in its dtype.

    The model's own forward runs, with whatever it does to its logits (softcapping, scaling); only the
    states that its head reads are narrowed down to the scored positions.
    """
    model = language_model.model
    head = model.get_submodule(language_model.anatomy.head)
    with only_positions(head, rows.to(language_model.device), columns.to(language_model.device)):
        logits: Tensor = model(**arguments).logits
    if logits.shape[:2] != (1, len(rows)):
        raise RuntimeError(f"{type(model).__name__} does not compute its logits by {head}")
    return logits[0]


def uncached_arguments(language_model: LanguageModel, batch: TokenBatch) -> dict[str, Any]:
    """Keyword arguments of a forward pass that keeps nothing."""
    arguments = batch.forward_arguments(language_model.model)
    if "use_cache" in inspect.signature(language_model.model.forward).parameters:
        arguments["use_cache"] = False
    return arguments


@contextmanager
def only_positions(head: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the head see, of its (batch, sequence, hidden) input, only (1, scored, hidden)."""

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[rows, columns][None], *rest)

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run without dropout, and put every module back into the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
