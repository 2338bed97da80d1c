"""MEND's hypernetwork: from the factors of a gradient to those of an edit (Mitchell et al. 2022, section 3).

Weights of one shape share a network; each has its own scales and shifts in it, its own means and deviations
of what goes in, and its own step size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from services.worker.editing.gradient_factors import Factors, LinearWeight
from services.worker.language_models.modification import (
    ModificationMismatch,
    read_modification,
    write_modification,
)

KIND = "hypernetwork"


class FactorNetwork(nn.Module):
    """Two low-rank residual layers over a token's input and gradient side by side (eq. 3).

    It begins as the identity. members: weights that share it. The activation is GELU: that of the
    publication, ReLU, has a slope of zero where it begins, and would stay there.
    """

    def __init__(self, width: int, rank: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, width)
        self.inward = nn.Parameter(
            torch.empty(2, rank, width).normal_(generator=generator) / math.sqrt(width)
        )
        self.outward = nn.Parameter(torch.zeros(2, width, rank))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(members, 2, width))
        self.shift = nn.Parameter(torch.zeros(members, 2, width))

    def forward(self, z: Tensor, member: int) -> Tensor:
        """(tokens, width) to (tokens, width)."""
        scale, shift = self.scale[member], self.shift[member]
        first = z @ self.inward[0].T @ self.outward[0].T + self.bias
        h: Tensor = z + nn.functional.gelu(scale[0] * first + shift[0])
        second = h @ self.inward[1].T @ self.outward[1].T
        return h + scale[1] * second + shift[1]


class Hypernetwork(nn.Module):
    """The networks of all shapes, and what belongs to each weight alone.

    means, deviations: of what goes in, (in + out,) per weight; see `normalise_by`.
    """

    def __init__(
        self,
        weights: Sequence[LinearWeight],
        base_revision: str,
        rank: int,
        edit_lr: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.weights, self.base_revision, self.rank = tuple(weights), base_revision, rank
        self.shapes = sorted({(weight.inputs, weight.outputs) for weight in weights})
        self.networks = nn.ModuleList(
            FactorNetwork(inputs + outputs, rank, len(self.sharing(inputs, outputs)), generator)
            for inputs, outputs in self.shapes
        )
        self.log_step_sizes = nn.Parameter(torch.full((len(weights),), math.log(edit_lr)))
        for index, weight in enumerate(weights):
            width = weight.inputs + weight.outputs
            self.register_buffer(f"mean{index}", torch.zeros(width))
            self.register_buffer(f"deviation{index}", torch.ones(width))

    def sharing(self, inputs: int, outputs: int) -> list[LinearWeight]:
        """The weights of one shape."""
        return [weight for weight in self.weights if (weight.inputs, weight.outputs) == (inputs, outputs)]

    def forward(self, factors: Mapping[str, Factors]) -> dict[str, Factors]:
        """From gradients to updates, by path: −α Σ δ̃ x̃ᵀ, its sign and step size within the outputs."""
        return {
            weight.path: self.transform(index, factors[weight.path])
            for index, weight in enumerate(self.weights)
        }

    def transform(self, index: int, factors: Factors) -> Factors:
        """One weight's factors."""
        weight = self.weights[index]
        shape = (weight.inputs, weight.outputs)
        network, member = self.networks[self.shapes.index(shape)], self.sharing(*shape).index(weight)
        mean, deviation = self.get_buffer(f"mean{index}"), self.get_buffer(f"deviation{index}")
        z = (torch.cat([factors.inputs, factors.outputs], dim=1) - mean) / deviation
        inputs, outputs = network(z, member).split(shape, dim=1)
        return Factors(inputs, -self.log_step_sizes[index].exp() * outputs)

    def normalise_by(self, samples: Iterable[Mapping[str, Factors]]) -> None:
        """Take the means and deviations of what goes in from gradients of the training edits."""
        sums = [
            torch.zeros(3, weight.inputs + weight.outputs, dtype=torch.float64) for weight in self.weights
        ]
        for sample in samples:
            for weight, total in zip(self.weights, sums, strict=True):
                of_weight = sample[weight.path]
                z = torch.cat([of_weight.inputs, of_weight.outputs], dim=1).double().cpu()
                total += torch.stack([torch.full_like(z[0], len(z)), z.sum(dim=0), z.square().sum(dim=0)])
        for index, (count, total, squares) in enumerate(sums):
            mean = total / count
            deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
            self.get_buffer(f"mean{index}").copy_(mean)
            # What never varied is passed on as it is.
            self.get_buffer(f"deviation{index}").copy_(deviation.where(deviation > 0, 1.0))

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        write_modification(
            path,
            KIND,
            self.base_revision,
            self.state_dict(),
            weights=[asdict(weight) for weight in self.weights],
            rank=self.rank,
        )

    def check_fits(self, base_revision: str, weights: Sequence[LinearWeight]) -> None:
        """Raise ModificationMismatch unless it was trained for these weights of this model."""
        if base_revision != self.base_revision:
            raise ModificationMismatch(
                f"the hypernetwork was trained for revision {self.base_revision}, not for {base_revision}"
            )
        if self.weights != tuple(weights):
            trained = ", ".join(weight.path for weight in self.weights)
            raise ModificationMismatch(f"the hypernetwork was trained for other weights: {trained}")


def load_hypernetwork(path: Path) -> Hypernetwork:
    """Read what `Hypernetwork.save` wrote; raises ModificationMismatch when the file is not one."""
    stored = read_modification(path)
    if stored.kind != KIND:
        raise ModificationMismatch(f"{path.name} holds no hypernetwork but a {stored.kind}")
    weights = [LinearWeight(**weight) for weight in stored.header["weights"]]
    found = Hypernetwork(
        weights, stored.base_revision, int(stored.header["rank"]), 1.0, torch.Generator().manual_seed(0)
    )
    try:
        found.load_state_dict(dict(stored.tensors))
    except RuntimeError as error:
        raise ModificationMismatch(f"{path.name}: {error}") from error
    return found.requires_grad_(False)
