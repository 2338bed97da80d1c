"""Changes that are made one after another."""

import torch
from torch import Tensor, nn

from services.worker.editing.written_deltas import writing_to
from services.worker.language_models.weight_delta import Dense, LowRank
from tests.worker.editing.parity import relative_error

CPU = torch.device("cpu")
ROWS, COLUMNS = 8, 6


def model(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(COLUMNS, ROWS).to(dtype).requires_grad_(False)


def low_rank(rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(ROWS, rank, generator=generator), torch.randn(rank, COLUMNS, generator=generator)
    )


def sum_of(*deltas: LowRank | Dense) -> Tensor:
    return torch.stack([delta.dense(CPU) for delta in deltas]).sum(dim=0)


def test_the_modification_is_the_sum_and_the_model_is_put_back() -> None:
    linear = model()
    before = linear.weight.clone()
    with writing_to(linear, ["weight"]) as written:
        written.add("weight", low_rank(1, seed=1))
        written.add("weight", low_rank(1, seed=2))
        inside = linear.weight.clone()
    assert torch.equal(linear.weight, before)
    delta = written.modification("r1").parameters["weight"]
    assert isinstance(delta, LowRank)
    assert relative_error(delta.dense(CPU), sum_of(low_rank(1, 1), low_rank(1, 2))) < 1e-7
    written.modification("r1").apply_(linear)
    assert torch.equal(linear.weight, inside)


def test_factors_that_would_take_more_numbers_are_multiplied_out() -> None:
    linear = model()
    with writing_to(linear, ["weight"]) as written:
        for seed in range(4):
            written.add("weight", low_rank(1, seed))
    delta = written.modification("r1").parameters["weight"]
    assert isinstance(delta, Dense)
    assert relative_error(delta.dense(CPU), sum_of(*(low_rank(1, seed) for seed in range(4)))) < 1e-6


def test_small_changes_of_half_precision_weights_are_not_lost_one_by_one() -> None:
    linear = model(torch.bfloat16)
    tiny = Dense(torch.full((ROWS, COLUMNS), 1e-4))
    with writing_to(linear, ["weight"]) as written:
        before = linear.weight.double()
        for _ in range(1_000):
            written.add("weight", tiny)
        moved = linear.weight.double() - before
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=2e-3)
