"""Probes see the tuned model as it is deployed: merged or not, rounded or not; tuning never notices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.freezing import NOTHING
from services.worker.tuning.updates import Learner, trainable
from shared.recipes import FullUpdate, LoraUpdate
from tests.worker.tuning.models import changed, recipe, run, tiny_language_model, weights_of
from tests.worker.tuning.updates.table import FAMILIES, MERGEABLE

SAME = 2e-4  # float32: the product is formed before the sum, or after it
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@torch.no_grad()
def logits(model: LanguageModel) -> Tensor:
    found: Tensor = model.model(IDS).logits
    return found.double()


@torch.no_grad()
def move(learner: Learner) -> None:
    """As far as a tuning might go."""
    torch.manual_seed(1)
    for weight in learner.model.parameters():
        if weight.requires_grad:
            weight.add_(0.05 * torch.randn_like(weight))


@pytest.mark.parametrize("kind", MERGEABLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_unmerged_in_float32(family: str, kind: str) -> None:
    model, update = tiny_language_model(family), MERGEABLE[kind].model_copy(update={"merged": True})
    untouched = logits(model)
    with trainable(model, update, NOTHING) as learner:
        move(learner)
        learner.model.eval()
        beside, before = logits(model), weights_of(model)
        with learner.as_deployed():
            merged, during = logits(model), weights_of(model)
        assert changed(before, weights_of(model)) == set()
        assert torch.equal(logits(model), beside)
    moved = {name for name in changed(before, during) if ".base_layer." in name}
    assert moved == changed(before, during) != set()
    assert (beside - untouched).abs().max() > 100 * SAME
    assert (merged - beside).abs().max() < SAME * beside.abs().max()


@pytest.mark.parametrize("kind", MERGEABLE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merged_weights_are_rounded_to_the_deployed_dtype(dtype: torch.dtype, kind: str) -> None:
    path = "transformer.h.0.mlp.c_proj.base_layer.weight"
    found = {}
    for deployed in ("model", "float32"):
        model = tiny_language_model(dtype=dtype)
        update = MERGEABLE[kind].model_copy(update={"merged": True, "deployed_dtype": deployed})
        with trainable(model, update, NOTHING) as learner:
            move(learner)
            with learner.as_deployed():
                found[deployed] = model.model.get_parameter(path).detach().clone()
                assert model.model(IDS).logits.dtype is found[deployed].dtype
    assert (found["model"].dtype, found["float32"].dtype) == (dtype, torch.float32)
    assert torch.equal(found["float32"].to(dtype), found["model"])
    assert not torch.equal(found["float32"], found["model"].float())


@pytest.mark.parametrize("kind", MERGEABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tuning_goes_on_from_unmerged_adapters_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, kind: str
) -> None:
    model = tiny_language_model(dtype=dtype)
    chosen = recipe(update=MERGEABLE[kind], probe_count=4)
    merging = chosen.model_copy(update={"update": MERGEABLE[kind].model_copy(update={"merged": True})})
    assert run(model, merging, tmp_path).losses == run(model, chosen, tmp_path).losses


def test_deployed_weights_are_rounded_and_learning_goes_on_unrounded() -> None:
    model = tiny_language_model(dtype=torch.bfloat16)
    with trainable(model, FullUpdate(), NOTHING) as learner:
        weight = model.model.get_parameter("transformer.h.0.mlp.c_proj.weight")
        with torch.no_grad():
            weight.add_(1e-4)
        unrounded = weight.detach().clone()
        with learner.as_deployed():
            deployed = weight.detach().clone()
        assert torch.equal(deployed, unrounded.bfloat16())
        assert torch.equal(weight.detach(), unrounded)


@pytest.mark.parametrize(
    "update", [FullUpdate(deployed_dtype="float32"), LoraUpdate(deployed_dtype="float32")]
)
def test_weights_can_be_deployed_in_float32(update: FullUpdate | LoraUpdate) -> None:
    model = tiny_language_model(dtype=torch.bfloat16)
    with trainable(model, update, NOTHING) as learner:
        move(learner)
        learnt = {name: weight.detach().float() for name, weight in learner.model.named_parameters()}
        with learner.as_deployed():
            assert model.dtype is torch.float32
            assert all(torch.equal(learnt[name], weight) for name, weight in learner.model.named_parameters())
    assert model.dtype is torch.bfloat16
