"""No kind of dropout is left inside, and all of it is back outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from services.worker.tuning.dropout import without_dropout
from tests.worker.tuning.models import tiny_language_model


def read_while_training(model: nn.Module) -> Tensor:
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits
    return logits


# GPT-2 has modules, OPT numbers that it gives to a functional dropout.
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_model_that_trains_reads_as_one_that_does_not(family: str) -> None:
    model = tiny_language_model(family).model
    with_dropout = read_while_training(model)
    with without_dropout(model):
        without = read_while_training(model)
        assert model.training
    assert torch.equal(without, model.eval()(torch.tensor([[5, 6, 7, 8]])).logits)
    assert not torch.equal(with_dropout, without)
    assert torch.equal(read_while_training(model), with_dropout)
