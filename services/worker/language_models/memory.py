"""Work in batches, which become smaller where the GPU's memory does not hold them."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from services.worker.language_models.batching import split_by_tokens

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class OutOfGpuMemory(Exception):
    """Not even one item alone fits into the GPU's memory."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"the GPU ran out of memory although {what} one at a time: {reason}")


class GpuMemory:
    """What running out of the GPU's memory has taught about the size of batches.

    There is one per step: how a step's work is split must not depend on the steps before it, or the
    last bits of its numbers would.
    """

    def __init__(self) -> None:
        self._parts: dict[str, int] = {}  # that a batch is split into, by the kind of work
        self._warnings: dict[str, str] = {}

    @property
    def warnings(self) -> list[str]:
        """What the reader of a result is to know of it."""
        return list(self._warnings.values())

    def run(
        self, what: str, batches: Iterable[Sequence[Item]], work: Callable[[Sequence[Item]], None]
    ) -> None:
        """Call `work` on every batch, or on parts of it, halved as often as memory asks for.

        what: the kind of work, as in "prompts were scored"; what one batch taught holds for the next ones
        of its kind. work: must leave nothing behind when it runs out of memory, for it is called again.
        Raises OutOfGpuMemory when nothing is left to halve.
        """
        for batch in batches:
            left = batch
            while left:
                part = left[: math.ceil(len(batch) / self._parts.get(what, 1))]
                shortage = attempt(work, part)
                if shortage is None:
                    left = left[len(part) :]
                elif len(part) > 1:
                    self._halve(what, len(batch))
                else:
                    raise OutOfGpuMemory(what, shortage)

    def _halve(self, what: str, batch_size: int) -> None:
        self._parts[what] = 2 * self._parts.get(what, 1)
        smaller = math.ceil(batch_size / self._parts[what])
        warning = f"ran out of GPU memory; {what} {smaller} at a time instead of {batch_size}"
        self._warnings[what] = warning
        log.warning("%s", warning)
        free_gpu_memory()


def free_gpu_memory() -> None:
    """Give memory that nothing uses any more back to the GPU, where there is one in use."""
    gc.collect()  # what is not used may be part of a cycle
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def attempt(work: Callable[[Sequence[Item]], None], part: Sequence[Item]) -> str | None:
    """Call `work`; where it runs out of memory, what torch says of it.

    The error itself is not kept: its traceback holds on to the very tensors that did not fit.
    """
    try:
        work(part)
    except torch.OutOfMemoryError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Batches:
    """How much a model is given at once: a budget of padded tokens, and less where memory runs out."""

    token_budget: int
    memory: GpuMemory = field(default_factory=GpuMemory)

    def at_most(self, tokens: int) -> Batches:
        """The same with no more padded tokens at once than this."""
        return replace(self, token_budget=min(tokens, self.token_budget))

    def run(
        self,
        what: str,
        lengths: Sequence[int],
        work: Callable[[Sequence[int]], None],
        rows: Sequence[int] | None = None,
    ) -> None:
        """Call `work` on indices of items; see `split_by_tokens` for the rest and `GpuMemory.run`."""
        self.memory.run(what, split_by_tokens(lengths, self.token_budget, rows), work)
