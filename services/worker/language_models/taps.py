"""Reading what goes into or comes out of named modules, and running a model from the middle."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from services.worker.language_models.anatomy import Anatomy, hidden_of
from services.worker.language_models.batching import TokenBatch


@dataclass(frozen=True)
class Tap:
    """A place to read: the first input, or the (first) output, of the module at `path`."""

    path: str
    side: Literal["input", "output"]


class _EverythingRead(Exception):
    """Ends a forward pass once its last tap has been read."""


@torch.no_grad()
def read_taps(
    model: PreTrainedModel, batch: TokenBatch, taps: Sequence[Tap], **arguments: Any
) -> dict[Tap, Tensor]:
    """Run the model up to the last tap; returns (batch, sequence, width) per tap, in the model's dtype.

    arguments: of the forward pass, beside or instead of the batch's own.
    """
    read: dict[Tap, Tensor] = {}

    def keep(tap: Tap, value: Tensor) -> None:
        # OPT flattens its batch inside a block, and Falcon adds to what its MLP put out in place.
        read[tap] = value.detach().clone().reshape(*batch.input_ids.shape, value.shape[-1])
        if len(read) == len(set(taps)):
            raise _EverythingRead

    with ExitStack() as hooks:
        for tap in set(taps):
            module = model.get_submodule(tap.path)
            if tap.side == "input":
                handle = module.register_forward_pre_hook(lambda _module, args, tap=tap: keep(tap, args[0]))
            else:
                handle = module.register_forward_hook(
                    lambda _module, _args, output, tap=tap: keep(tap, hidden_of(output))
                )
            hooks.callback(handle.remove)
        try:
            model(**{**batch.forward_arguments(model), "use_cache": False, **arguments})
        except _EverythingRead:
            return read
    raise ValueError(f"the forward pass never reached {sorted(tap.path for tap in set(taps) - set(read))}")


@torch.no_grad()
def blocks_return_tuples(model: PreTrainedModel, anatomy: Anatomy) -> bool:
    """Whether a block wraps its hidden states in a tuple, found by running the first on one token."""
    seen: list[bool] = []
    handle = model.get_submodule(anatomy.blocks[0]).register_forward_hook(
        lambda _module, _args, output: seen.append(isinstance(output, tuple))
    )
    with ExitStack() as hooks:
        hooks.callback(handle.remove)
        ids = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
        model(**TokenBatch(ids, torch.ones_like(ids)).forward_arguments(model), use_cache=False)
    return seen[0]


@contextmanager
def replayed_blocks(
    model: nn.Module, anatomy: Anatomy, layer: int, output: Tensor | None, *, in_tuple: bool
) -> Iterator[None]:
    """Run the model as if its blocks 0 to `layer` had put out `output`, without running them.

    output: (batch, sequence, hidden); gradients flow into it; unused when `layer` is -1, for then all
    blocks run. in_tuple: see `blocks_return_tuples`.
    Everything around the blocks (masks, positions, final norm, head) is the model's own.
    """

    def return_input(hidden_states: Tensor, *_: object, **__: object) -> Any:
        return (hidden_states, None) if in_tuple else hidden_states

    def return_output(*_: object, **__: object) -> Any:
        return (output, None) if in_tuple else output

    with ExitStack() as originals:
        for index, path in enumerate(anatomy.blocks[: layer + 1]):
            block = model.get_submodule(path)
            originals.callback(put_back_forward, block, block.__dict__.get("forward"))
            block.forward = return_output if index == layer else return_input
        yield


def put_back_forward(module: nn.Module, original: Any) -> None:
    if original is None:
        del module.__dict__["forward"]
    else:
        module.forward = original


@contextmanager
def moved_outputs(model: nn.Module, paths: Sequence[str], tokens: Tensor, changes: Tensor) -> Iterator[None]:
    """Add to what modules put out at some tokens; gradients flow into `changes`.

    tokens: (tokens,) int64, counted through the whole batch, row by row, since OPT flattens it. changes:
    (modules, tokens, hidden) float32; each sum is formed in float32 and rounded once.
    """

    def move(change: Tensor, output: Any) -> Any:
        hidden = hidden_of(output)
        flat = hidden.reshape(-1, hidden.shape[-1])
        moved = flat.index_put((tokens,), (flat[tokens].float() + change).to(flat.dtype))
        return with_hidden(output, moved.view(hidden.shape))

    with ExitStack() as hooks:
        for path, change in zip(paths, changes, strict=True):
            handle = model.get_submodule(path).register_forward_hook(
                lambda _module, _args, output, change=change: move(change, output)
            )
            hooks.callback(handle.remove)
        yield


@contextmanager
def replaced_outputs(model: nn.Module, replacements: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Have modules put out something else at some tokens.

    replacements: by the module's path, tokens as in `moved_outputs` and values, (tokens, hidden).
    """

    def replace(tokens: Tensor, values: Tensor, output: Any) -> Any:
        hidden = hidden_of(output)
        flat = hidden.reshape(-1, hidden.shape[-1])
        return with_hidden(output, flat.index_put((tokens,), values.to(flat.dtype)).view(hidden.shape))

    with ExitStack() as hooks:
        for path, (tokens, values) in replacements.items():
            handle = model.get_submodule(path).register_forward_hook(
                lambda _module, _args, output, tokens=tokens, values=values: replace(tokens, values, output)
            )
            hooks.callback(handle.remove)
        yield


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A module's output with other hidden states, wrapped as they were."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def passes_straight_through(model: PreTrainedModel, anatomy: Anatomy, layer: int, path: str) -> bool:
    """Whether what is added to a module's output is added to its block's output and does nothing else.

    True of the MLP of most blocks, which is summed up with the residual stream last; not where a norm
    follows (Gemma 2). Found by sending a gradient back through the block, which must come out unchanged.
    """
    ids = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    seen: dict[str, Tensor] = {}

    def begin(_module: nn.Module, _args: object, output: Any) -> Any:
        seen["start"] = hidden_of(output).detach().requires_grad_()
        return with_hidden(output, seen["start"].clone())  # Falcon adds to it in place

    def end(_module: nn.Module, _args: object, output: Any) -> None:
        seen["end"] = hidden_of(output)
        raise _EverythingRead

    with (
        torch.enable_grad(),
        suppress(_EverythingRead),
        model.get_submodule(path).register_forward_hook(begin),
        model.get_submodule(anatomy.blocks[layer]).register_forward_hook(end),
    ):
        model(**TokenBatch(ids, torch.ones_like(ids)).forward_arguments(model), use_cache=False)
    sent = torch.linspace(-1, 1, seen["end"].numel()).to(seen["end"]).view_as(seen["end"])
    (arrived,) = torch.autograd.grad(seen["end"], seen["start"], sent)
    return torch.equal(arrived.flatten(), sent.flatten())


@contextmanager
def head_reading(model: nn.Module, anatomy: Anatomy, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the head see only the hidden states at (rows, columns), both (reads,) int64.

    The model's logits are then (1, reads, vocabulary), whatever it does to them afterwards included.
    """

    def pick(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows, columns][None], *args[1:])

    handle = model.get_submodule(anatomy.head).register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
