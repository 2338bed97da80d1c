"""How far tuning moved the weights that an editor wrote, and whether along what it wrote."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from services.worker.language_models.modification import Modification
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from services.worker.tuning.updates.precision import values_kept
from shared.reports import WeightDrift

HELD_ENERGY = 0.99  # of the editor's change, by the singular vectors that count as its subspaces
MOST_MATRICES = 64  # of one editor, those changed most first: each costs a decomposition


@dataclass(frozen=True)
class Written:
    """A matrix that an editor changed, as it was when tuning began.

    start: (rows, columns), on the CPU, in the model's dtype.
    """

    parameter: str
    delta: LowRank | Dense
    start: Tensor


def written_matrices(model: nn.Module, modification: Modification | None) -> list[Written]:
    """The matrices that the modification, applied to the model now, changed; none where it changed none.

    Of more than 64 those with the largest changes.
    """
    if not isinstance(modification, WeightDelta):
        return []
    matrices = {name: delta for name, delta in modification.parameters.items() if len(delta.shape) == 2}
    cpu = torch.device("cpu")
    if len(matrices) > MOST_MATRICES:
        norms = {name: float(delta.dense(cpu).norm()) for name, delta in matrices.items()}
        largest = sorted(norms, key=lambda name: -norms[name])[:MOST_MATRICES]
        matrices = {name: delta for name, delta in matrices.items() if name in largest}
    return [
        Written(name, delta, model.get_parameter(name).detach().to(cpu, copy=True))
        for name, delta in matrices.items()
    ]


def weight_drift(model: nn.Module, written: Sequence[Written]) -> list[WeightDrift]:
    """What tuning has done until now to matrices that the editor wrote, adapters counted as if merged.

    Leaves the model bit for bit as it was. A quantised matrix cannot be compared with what it was and is
    left out.
    """
    found = []
    for matrix in written:
        now = effective_weight(model, matrix.parameter)
        if now is not None and now.shape == matrix.start.shape:
            moved = now.to(torch.float64) - matrix.start.to(now.device, torch.float64)
            found.append(compare(matrix.parameter, matrix.delta.dense(now.device), moved))
    return found


def effective_weight(model: nn.Module, parameter: str) -> Tensor | None:
    """A weight of the model, with an adapter that stands beside it merged in; None where it is quantised."""
    path, _, name = parameter.rpartition(".")
    module = model.get_submodule(path)
    if not isinstance(module, BaseTunerLayer):
        return model.get_parameter(parameter).detach()
    base = module.get_base_layer()
    weight = base.get_parameter(name)
    if not weight.is_floating_point():
        return None
    if module.merged:
        return weight.detach().clone()
    with values_kept(dict.fromkeys(base.parameters())):
        for kept in base.parameters():
            kept.data = kept.data.clone()  # peft adds to some in place
        module.merge()
        found = base.get_parameter(name).detach().clone()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # IA³ warns that it is inexact; the tensors of before are put back
            module.unmerge()
    return found


def compare(parameter: str, written: Tensor, moved: Tensor) -> WeightDrift:
    """Norms, angle and energies of two changes of one matrix, (rows, columns) float64 each."""
    left, right = singular_subspaces(written)
    edit_norm, tuning_norm = float(written.norm()), float(moved.norm())
    told: Mapping[str, float | None] = dict.fromkeys(
        ("cosine", "energy_left", "energy_right", "energy_inside"), None
    )
    if edit_norm > 0 and tuning_norm > 0:
        from_left = left.T @ moved  # (rank, columns)
        told = {
            "cosine": float((written * moved).sum()) / (edit_norm * tuning_norm),
            "energy_left": share_of_energy(from_left, moved),
            "energy_right": share_of_energy(moved @ right, moved),
            "energy_inside": share_of_energy(from_left @ right, moved),
        }
    return WeightDrift(
        parameter=parameter,
        rows=written.shape[0],
        columns=written.shape[1],
        rank=left.shape[1],
        seeds=1,
        edit_norm=edit_norm,
        tuning_norm=tuning_norm,
        **told,
    )


def share_of_energy(part: Tensor, whole: Tensor) -> float:
    """‖part‖² / ‖whole‖², Frobenius."""
    return float(part.square().sum() / whole.square().sum())


def singular_subspaces(matrix: Tensor, held: float = HELD_ENERGY) -> tuple[Tensor, Tensor]:
    """The fewest singular vectors that hold a share of a matrix's energy.

    matrix: (rows, columns) float64. Returns left (rows, rank) and right (columns, rank), orthonormal. Found
    by the eigenvectors of the Gram matrix on the smaller side, which for float64 loses only singular values
    under 1e-8 of the largest: far less energy than is let go.
    """
    rows, columns = matrix.shape
    if rows > columns:
        right, left = singular_subspaces(matrix.T, held)
        return left, right
    energies, vectors = torch.linalg.eigh(matrix @ matrix.T)
    energies, vectors = energies.flip(0).clamp_min(0.0), vectors.flip(1)
    total = energies.sum()
    if total <= 0:
        return vectors[:, :0], matrix.new_zeros(columns, 0)
    rank = int((energies.cumsum(0) < held * total).sum()) + 1
    left = vectors[:, :rank]
    right = matrix.T @ left / energies[:rank].sqrt()
    return left, right
