"""Changing what a module puts out, for as long as a context lasts and whatever stands in its place."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from services.worker.language_models.anatomy import hidden_of
from services.worker.language_models.taps import with_hidden

Replace = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def intercepted_output(model: nn.Module, path: str, replace: Replace) -> Iterator[None]:
    """Let `replace(input, output)` say what the module at `path` puts out; gradients flow through it.

    input, output: (…, width), the module's first ones. The module is looked up at every forward pass of the
    model, because an adapter may be put around it in the meantime: what is replaced is then what the two of
    them put out together.
    """
    interception = Interception(path, replace)
    with interception.on_module, model.register_forward_pre_hook(interception):
        yield


def is_intercepted(model: nn.Module) -> bool:
    """Whether any module's output is replaced by `intercepted_output`."""
    return any(isinstance(hook, Interception) for hook in model._forward_pre_hooks.values())


class Interception:
    """A hook before every forward pass of a model, which keeps another one on the module at `path`."""

    def __init__(self, path: str, replace: Replace) -> None:
        self.path = path
        self.replace = replace
        self.hooked: nn.Module | None = None
        self.on_module = ExitStack()

    def __call__(self, model: nn.Module, _args: tuple[Any, ...]) -> None:
        module = model.get_submodule(self.path)
        if self.hooked is not module:
            self.on_module.close()
            self.on_module.callback(module.register_forward_hook(self.put_out).remove)
            self.hooked = module

    def put_out(self, _module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """What the module is to put out instead."""
        return with_hidden(output, self.replace(args[0], hidden_of(output)))
