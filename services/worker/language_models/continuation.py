"""Running only the ends of sequences, again and again, on the keys and values of their beginnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from services.worker.language_models.anatomy import Anatomy
from services.worker.language_models.batching import TokenBatch, pad
from services.worker.language_models.taps import Tap, read_taps

# Of hidden states computed in two ways, relative to their size: rounding stays below, a wrong mask or
# position goes beyond.
SAME_STATES = {torch.float32: 1e-3, torch.float64: 1e-6}
SAME_STATES_IN_HALF_PRECISION = 0.1


@dataclass(frozen=True)
class Continuation:
    """Sequences in two parts: their ends, and what attention kept of their beginnings.

    ends: right-padded, (rows, width); beginnings: mask, left-padded so that every end begins in the same
    column, (rows, longest beginning) int64; kept: keys and values of the beginnings by block, each (rows,
    heads, longest beginning, width of a head).
    """

    ends: TokenBatch
    beginnings: Tensor
    kept: Mapping[int, tuple[Tensor, Tensor]]

    @classmethod
    def whole(cls, tokens: TokenBatch) -> "Continuation":
        """Right-padded sequences, all of them end."""
        return cls(tokens, tokens.attention_mask[:, :0], {})

    @property
    def mask(self) -> Tensor:
        """Of the beginnings and the ends, (rows, longest beginning + width) int64."""
        return torch.cat([self.beginnings, self.ends.attention_mask], dim=1)

    def keep(self, rows: Tensor) -> "Continuation":
        """Only some rows, (kept rows,) int64; a row may be kept several times."""
        return Continuation(
            TokenBatch(self.ends.input_ids[rows], self.ends.attention_mask[rows]),
            self.beginnings[rows],
            {block: (keys[rows], values[rows]) for block, (keys, values) in self.kept.items()},
        )

    def forward_arguments(self, model: PreTrainedModel) -> dict[str, Any]:
        """Keyword arguments of a forward pass over the ends; what it computes is not kept."""
        # A block that is not run keeps nothing, but masks are made to the measure of the first one.
        first = min(self.kept, default=0)
        blocks = range(max(self.kept, default=-1) + 1)
        return self.with_cache(model, [KeepingLayer(self.kept[max(block, first)]) for block in blocks])

    def with_cache(self, model: PreTrainedModel, layers: Sequence["KeepingLayer"]) -> dict[str, Any]:
        """Keyword arguments of a forward pass over the ends with these layers as its cache, or with none."""
        mask = self.mask
        whole = TokenBatch(torch.zeros_like(mask), mask).forward_arguments(model)
        arguments = {**whole, "input_ids": self.ends.input_ids, "use_cache": bool(layers)}
        if "position_ids" in arguments:
            arguments["position_ids"] = arguments["position_ids"][:, self.beginnings.shape[1] :]
        if layers:
            arguments["past_key_values"] = Cache(layers=list(layers))
        return arguments


class KeepingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # by the registry of its base
    """One block's keys and values of the beginnings, as the model's cache.

    A forward pass leaves nothing there, except that those at some positions of each row, (rows, positions)
    int64, counted through beginnings and ends, are put into `recorded`.
    """

    recorded: tuple[Tensor, Tensor]

    def __init__(self, kept: tuple[Tensor, Tensor] | None, positions: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept = kept
        self.positions = positions
        if kept is not None:
            self.keys, self.values = kept  # of which the model asks the length
            self.dtype, self.device = kept[0].dtype, kept[0].device
            self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of beginnings and ends, (rows, heads, tokens, width of a head) each."""
        keys, values = key_states, value_states
        if self.kept is not None:
            keys = torch.cat([self.kept[0], keys], dim=-2)
            values = torch.cat([self.kept[1], values], dim=-2)
        if self.positions is not None:
            self.recorded = taken(keys, self.positions), taken(values, self.positions)
        return keys, values


def begin(
    model: PreTrainedModel,
    anatomy: Anatomy,
    tokens: TokenBatch,
    cuts: Tensor,
    first_block: int,
    taps: Sequence[Tap] = (),
) -> tuple[Continuation, dict[Tap, Tensor]]:
    """Run whole sequences once and cut them, so that their ends can be run from `first_block` on.

    tokens: right-padded; cuts: length of each row's beginning, (rows,) int64. The rest: see `run_and_cut`.
    """
    blocks = range(first_block, len(anatomy.blocks))
    return run_and_cut(model, anatomy, Continuation.whole(tokens), cuts, blocks, taps)


@torch.no_grad()
def run_and_cut(
    model: PreTrainedModel,
    anatomy: Anatomy,
    sequences: Continuation,
    cuts: Tensor,
    blocks: range,
    taps: Sequence[Tap] = (),
) -> tuple[Continuation, dict[Tap, Tensor]]:
    """Run sequences once and cut them, so that what follows the cuts can be run through some blocks again.

    cuts: columns of the ends, (rows,) int64. taps: what to read of the ends on the way, see `read_taps`.
    Without blocks, or with nothing before the cuts, no keys and values are kept.
    """
    ends, earlier = sequences.ends, sequences.beginnings.shape[1]
    end_columns = positions_from(cuts, int((ends.lengths - cuts).max()))
    longest = int((sequences.beginnings.sum(dim=1) + cuts).max()) if blocks else 0
    columns = positions_from(earlier + cuts - longest, longest)
    kept, read = {}, {}
    if longest > 0:
        last = Tap(anatomy.attentions[blocks[-1]], "output")  # where the last keys and values are made
        layers = [
            KeepingLayer(sequences.kept.get(block), columns if block in blocks else None)
            for block in range(len(anatomy.blocks))
        ]
        read = read_taps(model, ends, [*taps, last], **sequences.with_cache(model, layers))
        kept = {block: layers[block].recorded for block in blocks}
    elif taps:
        read = read_taps(model, ends, taps, **sequences.forward_arguments(model))
    continued = Continuation(
        TokenBatch(
            taken(ends.input_ids[..., None], end_columns)[..., 0],
            (end_columns < ends.lengths[:, None]).long(),
        ),
        taken(sequences.mask[..., None], columns)[..., 0] * (columns >= 0),
        kept,
    )
    return continued, {tap: read[tap] for tap in taps}


def positions_from(starts: Tensor, width: int) -> Tensor:
    """So many positions from each start on: (rows, width) int64."""
    return starts[:, None] + torch.arange(width, device=starts.device)


def taken(values: Tensor, positions: Tensor) -> Tensor:
    """Values at some positions of each row: (rows, …, sequence, width) to (rows, …, positions, width).

    Positions before the first or after the last stand for those.
    """
    inside = positions.clamp(0, values.shape[-2] - 1)
    index = inside.view(len(inside), *[1] * (values.dim() - 3), -1, 1)
    return values.gather(-2, index.expand(*values.shape[:-2], -1, values.shape[-1]))


@torch.no_grad()
def can_continue(model: PreTrainedModel, anatomy: Anatomy) -> bool:
    """Whether the model says of ends, given what was kept of their beginnings, what it says of the whole.

    Found by trying two short sequences, one of them with nothing before its end.
    """
    if "past_key_values" not in signature(model.forward).parameters:
        return False
    vocabulary = model.get_parameter(f"{anatomy.embedding}.weight").shape[0]
    ids = [[(7 * place + 3) % vocabulary for place in range(length)] for length in (8, 4)]
    whole = Continuation.whole(pad(ids, 0, "right").to(model.device))
    cuts = torch.tensor([5, 0], device=model.device)
    states = Tap(anatomy.head, "input")
    try:
        cut, read = run_and_cut(model, anatomy, whole, cuts, range(len(anatomy.blocks)), [states])
        continued = read_taps(model, cut.ends, [states], **cut.forward_arguments(model))[states]
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    real = cut.ends.attention_mask.bool()
    expected = taken(read[states], positions_from(cuts, real.shape[1]))[real].double()
    error = torch.linalg.vector_norm(continued[real].double() - expected)
    tolerance = SAME_STATES.get(continued.dtype, SAME_STATES_IN_HALF_PRECISION)
    return bool(error < tolerance * torch.linalg.vector_norm(expected))
