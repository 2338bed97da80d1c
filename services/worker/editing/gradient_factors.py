"""The gradient of a linear layer as a sum of outer products, one per token, and updates in the same form.

For a layer y = W x, a token contributes δ xᵀ to the gradient of a loss, δ being the loss's gradient with
respect to y (Mitchell et al. 2022, eq. 2).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.loading import LanguageModel


@dataclass(frozen=True)
class Factors:
    """Outer products, by rows: inputs (tokens, in), outputs (tokens, out), float32."""

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class LinearWeight:
    """The weight of a linear layer.

    transposed: stored (in, out), as GPT-2's Conv1D does, instead of (out, in).
    """

    path: str
    inputs: int
    outputs: int
    transposed: bool

    @property
    def name(self) -> str:
        return f"{self.path}.weight"


def mlp_weights(language_model: LanguageModel, layers: Sequence[int]) -> list[LinearWeight]:
    """The weights of the up-projections, gates included, and down-projections of these blocks, in order."""
    anatomy = language_model.anatomy
    return [
        linear_weight(language_model.model, path)
        for layer in layers
        for path in (*anatomy.mlp_up_projections[layer], anatomy.mlp_down_projections[layer])
    ]


def linear_weight(model: nn.Module, path: str) -> LinearWeight:
    weight, transposed = model.get_parameter(f"{path}.weight"), isinstance(model.get_submodule(path), Conv1D)
    inputs, outputs = weight.shape if transposed else weight.shape[::-1]
    return LinearWeight(path, inputs, outputs, transposed)


def contributing(inputs: Tensor, gradients: Tensor) -> Factors:
    """The rows of (..., in) and (..., out) whose product is not zero.

    Left out are padding, and tokens that nothing which is read depends on.
    """
    x, delta = inputs.flatten(0, -2).float(), gradients.flatten(0, -2).float()
    rows = (x != 0).any(dim=1) & (delta != 0).any(dim=1)
    return Factors(x[rows], delta[rows])


def gradient_factors(
    model: nn.Module,
    weights: Sequence[LinearWeight],
    losses: Callable[[], Tensor],
    choose: Callable[[Tensor, Tensor], Factors] = contributing,
) -> tuple[Tensor, dict[str, Factors]]:
    """What `losses` gives, in one forward pass, and the factors of the gradient of its sum, by path.

    choose: those of the tokens that count, given what a layer read, (..., in), and its output's gradient,
    (..., out).
    """
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    with ExitStack() as hooks:
        for weight in weights:
            module = model.get_submodule(weight.path)
            hooks.callback(module.register_forward_hook(keep_factors(kept, weight.path)).remove)
        values = losses()
    gradients = torch.autograd.grad(values.sum(), [probe for _, probe in kept.values()])
    return values.detach(), {
        path: choose(inputs, gradient)
        for (path, (inputs, _)), gradient in zip(kept.items(), gradients, strict=True)
    }


def keep_factors(
    kept: dict[str, tuple[Tensor, Tensor]], path: str
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that keeps a layer's input, and adds a zero to its output, whose gradient is the output's."""

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        probe = torch.zeros_like(output, requires_grad=True)
        kept[path] = (args[0].detach(), probe)
        return output + probe

    return keep


@contextmanager
def updated(model: nn.Module, updates: Mapping[str, Factors]) -> Iterator[None]:
    """Run as if Σ outputs inputsᵀ were added to the weights, by path; gradients flow into the factors."""

    def add(factors: Factors) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def added(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            read = args[0].float() @ factors.inputs.T  # (..., tokens)
            return output + (read @ factors.outputs).to(output.dtype)

        return added

    with ExitStack() as hooks:
        for path, factors in updates.items():
            hooks.callback(model.get_submodule(path).register_forward_hook(add(factors)).remove)
        yield
