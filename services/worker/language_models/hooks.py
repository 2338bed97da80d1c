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
    hooked: list[nn.Module] = []

    def put_out(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return with_hidden(output, replace(args[0], hidden_of(output)))

    def follow(_model: nn.Module, _args: tuple[Any, ...]) -> None:
        module = model.get_submodule(path)
        if hooked != [module]:
            on_module.close()
            on_module.callback(module.register_forward_hook(put_out).remove)
            hooked[:] = [module]

    with ExitStack() as on_module, model.register_forward_pre_hook(follow):
        yield
