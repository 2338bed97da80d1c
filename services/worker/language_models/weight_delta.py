"""An edited or tuned model is, by definition, its base plus a weight delta.

Sums are always formed the same way (float64, then rounded once to the parameter's dtype), so that a delta
read back from disk gives the very weights it gave when it was made.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import (
    ModificationMismatch,
    StoredModification,
    write_modification,
)

KIND = "weight_delta"


@dataclass(frozen=True)
class LowRank:
    """A matrix delta as a product, in the parameter's own layout: GPT-2's Conv1D is (in, out).

    left: (rows, rank) float32; right: (rank, columns) float32.
    """

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[0], self.right.shape[1])

    def dense(self, device: torch.device) -> Tensor:
        """The whole delta, (rows, columns) float64."""
        return self.left.to(device, torch.float64) @ self.right.to(device, torch.float64)


@dataclass(frozen=True)
class Dense:
    """A delta with one number per weight, in the parameter's own layout: float32, or float64."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def dense(self, device: torch.device) -> Tensor:
        """The whole delta, in float64."""
        return self.values.to(device, torch.float64)

    @classmethod
    def between(cls, base: Tensor, changed: Tensor) -> "Dense":
        """The delta that takes `base` to `changed`: float32 where that is exact, else float64.

        Float64 is exact too, except for weights that shrink by more than 2**28 in size.
        """
        difference = changed.detach().to(torch.float64) - base.detach().to(torch.float64)
        single = cls(difference.to(torch.float32).cpu())
        if torch.equal(changed_weights(base, single), changed.detach()):
            return single
        return cls(difference.cpu())


@dataclass(frozen=True)
class WeightDelta:
    """Deltas by parameter name, and the revision of the base model that they are to be added to."""

    parameters: Mapping[str, LowRank | Dense]
    base_revision: str

    def apply_(self, model: nn.Module) -> None:
        """Add the delta to the model's weights in place.

        Raises ModificationMismatch, before anything is changed, when a name or shape does not fit.
        """
        self.check_fits(model)
        for name, delta in self.parameters.items():
            parameter = model.get_parameter(name)
            with torch.no_grad():
                parameter.copy_(changed_weights(parameter, delta))

    @contextmanager
    def applied(self, language_model: LanguageModel) -> Iterator[LanguageModel]:
        """See `Modification.applied`."""
        with applied(language_model.model, self):
            yield language_model

    def check_fits(self, model: nn.Module) -> None:
        """Raise ModificationMismatch unless every name is a parameter of the model with the delta's shape."""
        for name, delta in self.parameters.items():
            try:
                parameter = model.get_parameter(name)
            except AttributeError as error:
                raise ModificationMismatch(f"the model has no parameter {name}") from error
            if tuple(parameter.shape) != delta.shape:
                raise ModificationMismatch(f"{name} is {tuple(parameter.shape)}, its delta is {delta.shape}")

    def save(self, path: Path) -> None:
        """Write the delta as a safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, delta in self.parameters.items():
            if isinstance(delta, LowRank):
                tensors[f"{name}:left"] = delta.left
                tensors[f"{name}:right"] = delta.right
            else:
                tensors[f"{name}:dense"] = delta.values
        write_modification(path, KIND, self.base_revision, tensors)

    @classmethod
    def stored(cls, stored: StoredModification) -> "WeightDelta":
        """The delta that `save` wrote; raises ModificationMismatch when its tensors do not match up."""
        return cls(read_parameters(stored.tensors), stored.base_revision)


def read_parameters(tensors: Mapping[str, Tensor]) -> dict[str, LowRank | Dense]:
    """Put the tensors of a stored delta together; raises ModificationMismatch when they do not match up."""
    parameters: dict[str, LowRank | Dense] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(":")
        if part == "dense":
            parameters[name] = Dense(tensor)
        elif part == "left":
            right = tensors.get(f"{name}:right")
            if right is None or tensor.dim() != 2 or right.dim() != 2 or tensor.shape[1] != right.shape[0]:
                raise ModificationMismatch(f"the two factors of {name} do not match")
            parameters[name] = LowRank(tensor, right)
        elif part != "right" or f"{name}:left" not in tensors:
            raise ModificationMismatch(f"unknown tensor {key}")
    return parameters


def changed_weights(weights: Tensor, delta: LowRank | Dense) -> Tensor:
    """Base plus delta: summed in float64, rounded once to the dtype of the weights."""
    return (weights.detach().to(torch.float64) + delta.dense(weights.device)).to(weights.dtype)


@contextmanager
def applied(model: nn.Module, delta: WeightDelta) -> Iterator[None]:
    """Run with the delta added to the model, and restore the base bit for bit afterwards."""
    delta.check_fits(model)
    with restored(model, delta.parameters):
        delta.apply_(model)
        yield


@contextmanager
def restored(
    model: nn.Module, names: Iterable[str] | None = None, kept_on: torch.device | None = None
) -> Iterator[None]:
    """Undo, bit for bit, whatever is done inside to parameters, their `requires_grad` or the mode.

    names: the parameters that may change (all by default); each is copied once, to `kept_on`, which by
    default is its own device.
    """
    chosen = names if names is not None else [name for name, _ in model.named_parameters()]
    parameters = [model.get_parameter(name) for name in chosen]
    kept = [
        (parameter, parameter.detach().to(kept_on or parameter.device, copy=True), parameter.requires_grad)
        for parameter in parameters
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for parameter, values, requires_grad in kept:
            parameter.grad = None
            with torch.no_grad():
                parameter.copy_(values)
            parameter.requires_grad_(requires_grad)
        for module, training in modes.items():
            module.training = training
