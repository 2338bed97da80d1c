"""A codebook beside one block's MLP: near a key, its value is what the MLP puts out (GRACE, eq. 1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from services.worker.language_models.anatomy import linear_layers
from services.worker.language_models.hooks import intercepted_output
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import (
    ModificationMismatch,
    StoredModification,
    write_modification,
)

KIND = "codebook"


@dataclass(frozen=True)
class Entries:
    """Where a codebook holds, without what it puts there.

    keys: (entries, width) float32, in the space of the MLP's input; radii: (entries,) float32, the distance
    from its key within which an entry holds.
    """

    keys: Tensor
    radii: Tensor

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest entry of each query, and its Euclidean distance: (…,) int64 and (…,) float32.

        queries: (…, width). Entries are compared by a product of matrices, in which small distances drown;
        the distance of the nearest is then taken from the difference itself.
        """
        # Out of reach of the autocast that a training runs under: bfloat16 cannot tell the keys apart.
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.float()
            scores = queries @ self.keys.T - self.keys.square().sum(dim=-1) / 2  # falls with the distance
            nearest = scores.argmax(dim=-1)
            return nearest, torch.linalg.vector_norm(queries - self.keys[nearest], dim=-1)


@dataclass(frozen=True)
class Codebook:
    """Entries beside the MLP of block `layer`, and the values they put in place of its output.

    values: (entries, hidden) float32.

    Every token is looked up on its own, by the MLP's input there. Which tokens are prompt, answer or
    padding makes no difference, and a token's outcome depends on nothing after it.
    """

    layer: int
    entries: Entries
    values: Tensor
    base_revision: str

    @contextmanager
    def applied(self, language_model: LanguageModel) -> Iterator[LanguageModel]:
        """See `Modification.applied`. The codebook itself takes no part in training."""
        self.check_fits(language_model)
        device = language_model.device
        entries = Entries(self.entries.keys.to(device), self.entries.radii.to(device))
        values = self.values.to(device)

        def defer(queries: Tensor, output: Tensor) -> Tensor:
            nearest, distances = entries.nearest(queries.detach())
            held = distances <= entries.radii[nearest]
            return torch.where(held[..., None], values[nearest].to(output.dtype), output)

        with intercepted_output(language_model.model, language_model.anatomy.mlps[self.layer], defer):
            yield language_model

    def check_fits(self, language_model: LanguageModel) -> None:
        """Raise ModificationMismatch unless the model has the block, with an MLP of these widths."""
        anatomy = language_model.anatomy
        if self.layer >= len(anatomy.mlps):
            raise ModificationMismatch(f"the model has no MLP in block {self.layer}")
        mlp, writer = anatomy.mlps[self.layer], anatomy.mlp_down_projections[self.layer]
        written = next(linear_layers(language_model.model.get_submodule(writer)))
        widths = (written.inputs if mlp == writer else written.outputs, written.outputs)
        own_widths = (self.entries.keys.shape[1], self.values.shape[1])
        if widths != own_widths:
            raise ModificationMismatch(
                f"the MLP of block {self.layer} takes and gives {widths} numbers, the codebook {own_widths}"
            )

    def save(self, path: Path) -> None:
        """Write the codebook as a safetensors file."""
        tensors = {"keys": self.entries.keys, "radii": self.entries.radii, "values": self.values}
        write_modification(path, KIND, self.base_revision, tensors, layer=self.layer)

    @classmethod
    def stored(cls, stored: StoredModification) -> "Codebook":
        """The codebook that `save` wrote; raises ModificationMismatch when its parts do not match up."""
        try:
            keys, radii, values = (stored.tensors[name] for name in ("keys", "radii", "values"))
            layer = int(stored.header["layer"])
        except KeyError as missing:
            raise ModificationMismatch(f"the codebook has no {missing}") from missing
        dimensions = [tensor.dim() for tensor in (keys, radii, values)]
        if dimensions != [2, 1, 2] or not 0 < len(keys) == len(radii) == len(values):
            raise ModificationMismatch("the parts of the codebook do not match")
        return cls(layer, Entries(keys, radii), values, stored.base_revision)
