"""Drift is measured against what the editor wrote, for weights and for adapters, and changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from services.worker.tuning.drift import (
    MOST_MATRICES,
    compare,
    effective_weight,
    singular_subspaces,
    weight_drift,
    written_matrices,
)
from services.worker.tuning.freezing import NOTHING
from services.worker.tuning.updates import trainable
from shared.recipes import DoraUpdate, FullUpdate, Ia3Update, LoraUpdate
from tests.worker.tuning.models import tiny_language_model

PARAMETER = "transformer.h.1.mlp.c_proj.weight"  # GPT-2's Conv1D: (in, out)
ADAPTERS = [LoraUpdate(rank=4), DoraUpdate(rank=4), Ia3Update()]


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rank_one(rows: int, columns: int, row: int, column: int) -> torch.Tensor:
    found = torch.zeros(rows, columns, dtype=torch.float64)
    found[row, column] = 2.0
    return found


def test_a_change_along_what_was_written_has_its_direction_and_all_its_energy_inside() -> None:
    written = rank_one(4, 6, 1, 2)
    found = compare("w", written, -0.5 * written)
    assert found.cosine == pytest.approx(-1.0)
    assert (found.edit_norm, found.tuning_norm, found.rank) == (2.0, 1.0, 1)
    assert (found.energy_left, found.energy_right, found.energy_inside) == pytest.approx((1.0, 1.0, 1.0))


def test_a_change_in_the_same_row_lies_in_the_left_subspace_alone() -> None:
    found = compare("w", rank_one(4, 6, 1, 2), rank_one(4, 6, 1, 5))
    assert found.cosine == 0.0
    assert (found.energy_left, found.energy_right, found.energy_inside) == pytest.approx((1.0, 0.0, 0.0))


def test_a_random_change_has_the_energy_of_chance() -> None:
    written = matrix(40, 3) @ matrix(3, 80, seed=1)
    found = compare("w", written, matrix(40, 80, seed=2))
    assert found.rank == 3
    assert found.energy_left == pytest.approx(3 / 40, abs=0.03)
    assert found.energy_right == pytest.approx(3 / 80, abs=0.03)


def test_a_matrix_that_tuning_left_alone_has_norms_and_no_direction() -> None:
    found = compare("w", rank_one(3, 3, 0, 0), torch.zeros(3, 3, dtype=torch.float64))
    assert (found.tuning_norm, found.cosine, found.energy_inside) == (0.0, None, None)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_subspaces_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    written = matrix(*shape) @ torch.diag(0.5 ** torch.arange(shape[1], dtype=torch.float64))
    left, right = singular_subspaces(written)
    u, values, vh = torch.linalg.svd(written, full_matrices=False)
    held = values.square().cumsum(0) / values.square().sum()
    rank = int((held < 0.99).sum()) + 1
    assert left.shape == (shape[0], rank)
    assert torch.allclose(left @ left.T, u[:, :rank] @ u[:, :rank].T, atol=1e-9)
    assert torch.allclose(right @ right.T, vh[:rank].T @ vh[:rank], atol=1e-9)


def test_full_update_is_measured_from_where_tuning_began() -> None:
    model = tiny_language_model()
    shape = tuple(model.model.get_parameter(PARAMETER).shape)
    delta = LowRank(matrix(shape[0], 2).float(), matrix(2, shape[1], seed=1).float())
    modification = WeightDelta({PARAMETER: delta}, "0")
    moved = matrix(*shape, seed=2)
    with modification.applied(model) as edited:
        written = written_matrices(edited.model, modification)
        with trainable(edited, FullUpdate(), NOTHING):
            with torch.no_grad():
                edited.model.get_parameter(PARAMETER).add_(moved.float())
            (found,) = weight_drift(edited.model, written)
    assert found.parameter == PARAMETER
    assert found.rank == 2
    assert found.edit_norm == pytest.approx(float(delta.dense(torch.device("cpu")).norm()))
    assert found.tuning_norm == pytest.approx(float(moved.norm()), rel=1e-5)


@pytest.mark.parametrize("update", ADAPTERS, ids=lambda update: update.kind)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapters_count_as_if_merged_and_the_model_stays_as_it_is(
    update: LoraUpdate | DoraUpdate | Ia3Update, family: str
) -> None:
    model = tiny_language_model(family)
    path = model.anatomy.mlp_down_projections[1]
    name = f"{path}.weight"
    before = model.model.get_parameter(name).detach().clone()
    with trainable(model, update, NOTHING) as learner:
        for number, parameter in enumerate(p for p in learner.model.parameters() if p.requires_grad):
            parameter.data += 0.05 * matrix(*parameter.shape, seed=number).float()
        state = {key: value.clone() for key, value in learner.model.state_dict().items()}
        found = effective_weight(learner.model, name)
        layer = copy.deepcopy(learner.model.get_submodule(path))
        layer.merge()
        assert found is not None
        assert torch.equal(found, layer.get_base_layer().weight)
        assert not torch.equal(found, before)
        assert not learner.model.get_submodule(path).merged
        for key, value in learner.model.state_dict().items():
            assert torch.equal(value, state[key]), key
    assert torch.equal(model.model.get_parameter(name), before)


def test_a_modification_beside_the_weights_wrote_no_matrix() -> None:
    assert written_matrices(tiny_language_model().model, None) == []


def test_of_very_many_matrices_the_ones_changed_most_are_followed() -> None:
    model = torch.nn.ParameterDict(
        {f"w{index}": torch.nn.Parameter(torch.zeros(2, 2)) for index in range(MOST_MATRICES + 5)}
    )
    deltas = {name: Dense(torch.full((2, 2), float(name[1:]))) for name in model}
    written = written_matrices(model, WeightDelta(deltas, "0"))
    assert {part.parameter for part in written} == {f"w{index}" for index in range(5, MOST_MATRICES + 5)}
