"""What is frozen is what the recipe says, in one form, and a change to it does not pass unseen."""

from __future__ import annotations

import pytest
import torch

from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import (
    NOTHING,
    Frozen,
    FrozenWeightsChanged,
    frozen_by,
    frozen_names,
    unchanged_where_frozen,
)
from shared.recipes import Freeze
from tests.worker.tiny_models import CONFIGS
from tests.worker.tuning.models import tiny_language_model

EDITED = (2, 1, 2)  # of four blocks


def frozen(text: str, family: str = "gpt2", edited: tuple[int, ...] = EDITED) -> Frozen:
    return frozen_by(Freeze(text), tiny_language_model(family), edited)


def names(text: str, family: str = "gpt2") -> frozenset[str]:
    model = tiny_language_model(family)
    return frozen_names(model, frozen_by(Freeze(text), model, EDITED))


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("none", ()),
        ("edited", (1, 2)),
        ("edited±1", (0, 1, 2, 3)),
        ("edited±9", (0, 1, 2, 3)),
        ("layers:3,0", (0, 3)),
        ("parameters:transformer.h.1.*", (1,)),
        ("parameters:transformer.h.*", (0, 1, 2, 3)),
    ],
)
def test_whole_blocks_are_frozen_each_once_and_in_order(text: str, blocks: tuple[int, ...]) -> None:
    assert frozen(text) == Frozen(blocks)


@pytest.mark.parametrize("family", CONFIGS)
def test_all_but_edited_leaves_just_the_edited_blocks(family: str) -> None:
    model = tiny_language_model(family)
    edited = tuple(f"{model.anatomy.blocks[block]}." for block in (1, 2))
    every = {name for name, _ in model.model.named_parameters()}
    assert every - names("all_but_edited", family) == {name for name in every if name.startswith(edited)}


def test_editor_without_edited_blocks_has_nothing_to_freeze_and_nothing_to_leave() -> None:
    assert frozen("edited", edited=()) == frozen("edited±2", edited=()) == NOTHING
    with pytest.raises(RecipeDoesNotFit, match="no block was edited"):
        frozen("all_but_edited", edited=())


def test_parameters_of_several_blocks_are_one_entry() -> None:
    found = frozen("parameters:*.[023].ln_1.bias,*.ln_f.*")
    assert found == Frozen(
        (), ("transformer.h.[0,2-3].ln_1.bias", "transformer.ln_f.bias", "transformer.ln_f.weight")
    )
    assert frozen_names(tiny_language_model(), found) == {
        *(f"transformer.h.{block}.ln_1.bias" for block in (0, 2, 3)),
        "transformer.ln_f.bias",
        "transformer.ln_f.weight",
    }


@pytest.mark.parametrize(
    "texts",
    [
        ("edited", "layers:1,2", "parameters:*.1.*,*.2.*"),
        ("all_but_edited", "parameters:*.0.*,*.3.*,*.wte.*,*.wpe.*,*.ln_f.*"),
        ("parameters:lm_head.weight", "parameters:transformer.wte.weight"),  # the head is tied
    ],
)
def test_freezings_are_equal_when_they_freeze_the_same(texts: tuple[str, ...]) -> None:
    assert len({frozen(text) for text in texts}) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("layers:2-5", "the model has no block 4-5, only 0-3"),
        ("parameters:*.bias,*.gate_proj.*", "no parameter of the model matches '\\*.gate_proj.\\*'"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(RecipeDoesNotFit, match=reason):
        frozen(text)


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
        weight.add_(1)
