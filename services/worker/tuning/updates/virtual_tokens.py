"""Learnt tokens before every sequence, put there by hooks on the model itself.

Training, held-out loss and probes all run with them and need not know: input ids, labels, masks, position ids
and logits are those of the real tokens. What pads a row on its left lies between the virtual tokens and the
row, masked; position ids are moved on by the number of virtual tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.precision import (
    casts_to_bfloat16,
    learning_dtype,
    stands_in_float32,
)
from shared.recipes import VirtualTokens
from shared.recipes.updates import Precision

ENCODER = "virtual_tokens"  # where the model holds what learns
Arguments = dict[str, Any]


class Preamble(Protocol):
    """Virtual tokens as one forward pass of the model takes them."""

    @property
    def encoder(self) -> nn.Module:
        """What learns."""
        ...

    @property
    def read(self) -> int:
        """How many of them the model reads like tokens; the others are there as keys and values only."""
        ...

    def put_before(self, arguments: Arguments) -> Arguments:
        """Arguments of a forward pass over the virtual tokens and all rows, without mask and positions."""
        ...


def check_room(language_model: LanguageModel, update: VirtualTokens) -> None:
    """Raise RecipeDoesNotFit when the model has no position left beside the virtual tokens."""
    limit = language_model.context_length
    if limit is not None and update.virtual_tokens >= limit:
        raise RecipeDoesNotFit(f"{update.virtual_tokens} virtual tokens fill the model's {limit} positions")


def token_embedding(language_model: LanguageModel) -> nn.Embedding:
    """The embedding of the model's real tokens, which its anatomy knows to be one."""
    return cast(nn.Embedding, language_model.model.get_submodule(language_model.anatomy.embedding))


@contextmanager
def virtual_tokens_learning(
    language_model: LanguageModel, update: VirtualTokens, preamble: Preamble, precision: Precision
) -> Iterator[Learner]:
    """The preamble learns, in float32, and stands before every sequence; the model's weights stay."""
    model = language_model.model
    float32 = stands_in_float32(language_model, precision)
    preamble.encoder.to(language_model.device, torch.float32).train().requires_grad_(True)
    with (
        restored(model, {}),
        learning_dtype(language_model, update, float32=float32) as as_deployed,
        preceded(language_model, update.virtual_tokens, preamble),
    ):
        yield Learner(model, as_deployed, casts_to_bfloat16(precision))


@contextmanager
def preceded(language_model: LanguageModel, count: int, preamble: Preamble) -> Iterator[None]:
    """Let the model hold the preamble and put it before whatever it is given; its head never sees it.

    A key-value cache that is not empty is taken to hold the preamble already: it must come, whole, from
    forward passes inside this context.
    """
    model = language_model.model
    names = list(inspect.signature(model.forward).parameters)
    width = 0

    def before(_model: nn.Module, given: tuple[Any, ...], named: Arguments) -> tuple[tuple[()], Arguments]:
        nonlocal width
        arguments = {**dict(zip(names, given, strict=False)), **named}
        width = sequence_length(arguments)
        begins = not past_length(arguments)
        moved = beside_virtual(arguments, count, preamble.read if begins else 0)
        return (), {**(preamble.put_before(arguments) if begins else arguments), **moved}

    def without_virtual(_head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0][:, -width:], *given[1:])

    head = model.get_submodule(language_model.anatomy.head)
    with positions_taken(language_model, count), ExitStack() as undo:
        model.add_module(ENCODER, preamble.encoder)
        undo.callback(delattr, model, ENCODER)
        undo.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
        # Before every other hook: those count columns in the rows that the model was given.
        undo.callback(head.register_forward_pre_hook(without_virtual, prepend=True).remove)
        yield


@contextmanager
def positions_taken(language_model: LanguageModel, count: int) -> Iterator[None]:
    """Let the model's configuration tell only the positions that virtual tokens leave to others."""
    configuration = language_model.model.config.get_text_config(decoder=True)
    limit = language_model.context_length
    if limit is None:
        yield
        return
    configuration.max_position_embeddings = limit - count
    try:
        yield
    finally:
        configuration.max_position_embeddings = limit


def sequence_length(arguments: Arguments) -> int:
    """Columns of the rows that the model was given."""
    rows = arguments.get("input_ids")
    rows = arguments["inputs_embeds"] if rows is None else rows
    return int(rows.shape[1])


def past_length(arguments: Arguments) -> int:
    """Tokens whose keys and values are there already."""
    cache = arguments.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def beside_virtual(arguments: Arguments, count: int, read: int) -> Arguments:
    """The mask and the position ids that were given, if any, as they are with virtual tokens before the rows.

    count: virtual tokens; read: those of them that are read with the rows, see `Preamble`. Raises ValueError
    for a mask by pairs of tokens, (batch, 1, sequence, sequence): its rows may not begin where others do.
    """
    moved: Arguments = {}
    mask, positions = arguments.get("attention_mask"), arguments.get("position_ids")
    if mask is not None:
        if mask.dim() != 2:
            raise ValueError("virtual tokens need a mask by token, (batch, sequence)")
        moved["attention_mask"] = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)
    if positions is not None:
        own = torch.arange(read, device=positions.device).expand(len(positions), -1)
        moved["position_ids"] = torch.cat([own, positions + count], dim=1)
    return moved
