"""A side memory: a second down-projection of one MLP, used where the two differ (WISE, section 2.2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.hooks import intercepted_output
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import (
    ModificationMismatch,
    StoredModification,
    write_modification,
)

KIND = "side_memory"


@dataclass(frozen=True)
class Projection:
    """The weights of a down-projection, (hidden, d_ff), and its bias, (hidden,), where it has one."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of_block(cls, language_model: LanguageModel, layer: int) -> "Projection":
        """A copy of the model's own."""
        model, anatomy = language_model.model, language_model.anatomy
        weight, transposed = down_projection_weight(model, anatomy, layer)
        bias = getattr(model.get_submodule(anatomy.mlp_down_projections[layer]), "bias", None)
        own = weight.detach().T if transposed else weight.detach()
        return cls(
            own.clone(memory_format=torch.contiguous_format), None if bias is None else bias.detach().clone()
        )

    def to(self, target: torch.device | torch.dtype) -> "Projection":
        """On a device, or in a dtype; a copy only where it is not already."""
        return Projection(self.weight.to(target), None if self.bias is None else self.bias.to(target))

    def __call__(self, activations: Tensor) -> Tensor:
        """(…, d_ff) to (…, hidden)."""
        return linear(activations, self.weight, self.bias)


@dataclass(frozen=True)
class SideMemory:
    """Another down-projection beside that of block `layer`, in the model's dtype.

    It is used at the tokens where what it puts out lies further than `threshold` (Euclidean distance) from
    what the model's own, the main memory, does. Every token is decided on by itself, so that neither padding
    nor anything after it makes a difference, and nobody need know where a prompt ends; the publication
    decides once per sequence, by the mean over its tokens. The side memory stays as it is when the model is
    tuned further: the main memory, and with it the distance between the two, may change.
    """

    layer: int
    projection: Projection
    threshold: float
    base_revision: str

    @contextmanager
    def applied(self, language_model: LanguageModel) -> Iterator[LanguageModel]:
        """See `Modification.applied`. The side memory itself takes no part in training."""
        self.check_fits(language_model)
        projection = self.projection.to(language_model.device)

        def route(activations: Tensor, main: Tensor) -> Tensor:
            side = projection.to(activations.dtype)(activations).to(main.dtype)
            distances = torch.linalg.vector_norm(side.detach().float() - main.detach().float(), dim=-1)
            return torch.where((distances > self.threshold)[..., None], side, main)

        path = language_model.anatomy.mlp_down_projections[self.layer]
        with intercepted_output(language_model.model, path, route):
            yield language_model

    def check_fits(self, language_model: LanguageModel) -> None:
        """Raise ModificationMismatch unless the model has the block, with a down-projection of this shape."""
        if self.layer >= len(language_model.anatomy.mlp_down_projections):
            raise ModificationMismatch(f"the model has no MLP in block {self.layer}")
        main = Projection.of_block(language_model, self.layer)
        if main.weight.shape != self.projection.weight.shape:
            raise ModificationMismatch(
                f"the down-projection of block {self.layer} is {tuple(main.weight.shape)}, the side memory "
                f"{tuple(self.projection.weight.shape)}"
            )

    def save(self, path: Path) -> None:
        """Write the side memory as a safetensors file."""
        tensors = {"weight": self.projection.weight}
        if self.projection.bias is not None:
            tensors["bias"] = self.projection.bias
        write_modification(
            path, KIND, self.base_revision, tensors, layer=self.layer, threshold=self.threshold
        )

    @classmethod
    def stored(cls, stored: StoredModification) -> "SideMemory":
        """The side memory that `save` wrote; raises ModificationMismatch when it is not whole."""
        try:
            weight, bias = stored.tensors["weight"], stored.tensors.get("bias")
            layer, threshold = int(stored.header["layer"]), float(stored.header["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModificationMismatch(f"the side memory is not whole: {error!r}") from error
        if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ModificationMismatch("the weight and the bias of the side memory do not match")
        return cls(layer, Projection(weight, bias), threshold, stored.base_revision)
