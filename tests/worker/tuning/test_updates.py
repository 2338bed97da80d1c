"""What an update changes learns, what it does not is untouched, and all of it is taken away again."""

from __future__ import annotations

import pytest
import torch

from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.updates import trainable
from shared.recipes import FullUpdate, LoraUpdate, Update
from tests.worker.tuning.models import changed, tiny_language_model, weights_of

UPDATES = [FullUpdate(), LoraUpdate(rank=2, alpha=3.0)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def learning_names(family: str, update: Update, frozen: tuple[int, ...]) -> set[str]:
    with trainable(tiny_language_model(family), update, frozen) as learner:
        return {name for name, weight in learner.model.named_parameters() if weight.requires_grad}


def test_full_update_learns_all_but_the_frozen_blocks() -> None:
    every = set(dict(tiny_language_model().model.named_parameters()))
    frozen = {name for name in every if name.startswith(("transformer.h.1.", "transformer.h.2."))}
    assert learning_names("gpt2", FullUpdate(), (1, 2)) == every - frozen


@pytest.mark.parametrize(("family", "projections"), [("gpt2", 4), ("llama", 7), ("neox", 4)])
def test_adapters_stand_on_every_linear_projection_of_the_unfrozen_blocks(
    family: str, projections: int
) -> None:
    names = learning_names(family, LoraUpdate(rank=2), (1, 2))
    assert all("lora_" in name for name in names)
    assert len(names) == 2 * 2 * projections  # two blocks, and two factors for each projection


def test_adapters_with_every_block_frozen_are_refused() -> None:
    with pytest.raises(RecipeDoesNotFit), trainable(tiny_language_model(), LoraUpdate(), (0, 1, 2, 3)):
        pass


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_model_is_restored_bit_for_bit(family: str, dtype: torch.dtype, update: Update) -> None:
    model = tiny_language_model(family, dtype)
    before = weights_of(model)
    with trainable(model, update, ()) as learner, torch.no_grad():
        for weight in learner.model.parameters():
            if weight.requires_grad:
                weight += 1
        learner.model.train()
    assert changed(before, weights_of(model)) == set()
    assert model.dtype == dtype
    assert not any(weight.requires_grad for weight in model.model.parameters())
    assert not any(module.training for module in model.model.modules())


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_that_learns_is_float32(dtype: torch.dtype, update: Update) -> None:
    with trainable(tiny_language_model(dtype=dtype), update, ()) as learner:
        learning = {weight.dtype for weight in learner.model.parameters() if weight.requires_grad}
    assert learning == {torch.float32}


def test_deployed_weights_are_rounded_and_learning_goes_on_unrounded() -> None:
    model = tiny_language_model(dtype=torch.bfloat16)
    with trainable(model, FullUpdate(), ()) as learner:
        weight = model.model.get_parameter("transformer.h.0.mlp.c_proj.weight")
        with torch.no_grad():
            weight += 1e-4
        unrounded = weight.detach().clone()
        with learner.as_deployed():
            deployed = weight.detach().clone()
        assert torch.equal(deployed, unrounded.bfloat16())
        assert torch.equal(weight.detach(), unrounded)


def test_scale_of_the_adapters_is_alpha_by_rank() -> None:
    model = tiny_language_model()
    with trainable(model, LoraUpdate(rank=2, alpha=3.0), ()):
        assert model.model.get_submodule("transformer.h.0.mlp.c_proj").scaling["default"] == 1.5
