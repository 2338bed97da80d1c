"""A GPU with too little memory, played by hooks that raise what torch raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from services.worker.language_models.anatomy import hidden_of
from services.worker.language_models.loading import LanguageModel

SHORTAGE = "CUDA out of memory. Tried to allocate 2.00 GiB."


@contextmanager
def room_for(rows: int, language_model: LanguageModel) -> Iterator[None]:
    """Forward passes of more than `rows` sequences run out of memory, half-way through the model."""
    seen = 0

    def count(_module: nn.Module, _args: tuple[Any, ...], arguments: dict[str, Tensor]) -> None:
        nonlocal seen
        seen = len(arguments["input_ids"])

    def run_out(_module: nn.Module, _args: tuple[Any, ...]) -> None:
        if seen > rows:
            raise torch.OutOfMemoryError(SHORTAGE)

    middle = language_model.model.get_submodule(language_model.anatomy.mlp_down_projections[2])
    with (
        language_model.model.register_forward_pre_hook(count, with_kwargs=True),
        middle.register_forward_pre_hook(run_out),
    ):
        yield


@contextmanager
def room_for_gradients_of(rows: int, block: nn.Module) -> Iterator[None]:
    """Backward passes of more than `rows` sequences run out of memory when they reach a block's output."""

    def run_out(gradient: Tensor) -> None:
        if len(gradient) > rows:
            raise torch.OutOfMemoryError(SHORTAGE)

    def watch(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        hidden = hidden_of(output)
        if hidden.requires_grad:
            hidden.register_hook(run_out)

    with block.register_forward_hook(watch):
        yield
