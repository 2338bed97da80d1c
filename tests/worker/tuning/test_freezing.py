"""Frozen blocks are the ones that the recipe names, and a change to them does not pass unseen."""

from __future__ import annotations

import pytest
import torch

from services.worker.tuning.freezing import FrozenWeightsChanged, frozen_blocks, unchanged_where_frozen
from shared.recipes import Freeze
from tests.worker.tuning.models import tiny_language_model


def test_freezing_nothing_freezes_nothing() -> None:
    assert frozen_blocks(Freeze.NONE, [2, 3]) == ()


def test_freezing_edited_blocks_takes_each_once_and_in_order() -> None:
    assert frozen_blocks(Freeze.EDITED, [3, 1, 3]) == (1, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_change_of_one_frozen_number_is_found_and_named(dtype: torch.dtype) -> None:
    model = tiny_language_model(dtype=dtype).model
    name = "transformer.h.1.mlp.c_proj.weight"
    with pytest.raises(FrozenWeightsChanged) as caught, unchanged_where_frozen(model), torch.no_grad():
        model.get_parameter(name)[0, 0] += 1
    assert caught.value.parameters == (name,)


def test_weight_that_learns_may_change() -> None:
    model = tiny_language_model().model
    weight = model.get_parameter("transformer.h.1.mlp.c_proj.weight").requires_grad_(True)
    with unchanged_where_frozen(model), torch.no_grad():
        weight += 1
