"""Intermediate results of an editor, by name, for whoever wants to compare or to understand them."""

from collections.abc import Callable

from torch import Tensor


class Trace:
    """Forgets whatever it is given: what an editor reports to when nobody asked."""

    def keep(self, name: str, values: Tensor | Callable[[], Tensor]) -> None:
        """Keep some values under a name, such as "layer3.keys"; functions are called if wanted."""


class KeptTrace(Trace):
    """Keeps float32 copies on the CPU."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def keep(self, name: str, values: Tensor | Callable[[], Tensor]) -> None:
        found = values if isinstance(values, Tensor) else values()
        self.tensors[name] = found.detach().float().cpu().contiguous().clone()
