"""Adapters learn beside weights in 4 bits, where there are such weights; elsewhere that is said at once."""

from __future__ import annotations

import pytest
import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import Frozen, unchanged_where_frozen
from services.worker.tuning.updates import check_update_fits, quantised, trainable
from shared.recipes import QloraUpdate
from tests.worker.tuning.models import changed, tiny_language_model, weights_of
from tests.worker.tuning.updates.table import DTYPES

UPDATE = QloraUpdate(rank=2)
FROZEN = Frozen((1,))
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def test_model_without_a_gpu_is_refused_for_it() -> None:
    model = tiny_language_model()
    with pytest.raises(RecipeDoesNotFit, match="needs a CUDA device, the model is on cpu"):
        check_update_fits(model, UPDATE, FROZEN)
    with pytest.raises(RecipeDoesNotFit, match="needs a CUDA device"), trainable(model, UPDATE, FROZEN):
        pass


def test_worker_without_the_package_is_refused_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "device", torch.device("cuda"))
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(RecipeDoesNotFit, match="lacks the package bitsandbytes"):
        check_update_fits(tiny_language_model(), UPDATE, FROZEN)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapters_learn_beside_quantised_weights_which_come_back(family: str, dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny_language_model(family, dtype)
    before, modules = weights_of(model), dict(model.model.named_modules())
    exact = model.model(IDS).logits.detach()
    with (
        quantised.adapters_beside_quantised(model, UPDATE, FROZEN) as learner,
        unchanged_where_frozen(learner.model),
    ):
        kinds = {type(module).__name__ for module in model.model.modules()}
        learning = [weight for weight in learner.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=1e-2)
        losses = []
        for _ in range(6):
            logits = model.model(IDS).logits.float()
            losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], IDS[0, 1:]))
            optimizer.zero_grad()
            losses[-1].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert "Linear4bit" in kinds
    assert {weight.dtype for weight in learning} == {torch.float32}
    assert losses[-1] < 0.9 * losses[0]
    assert changed(before, weights_of(model)) == set()
    assert dict(model.model.named_modules()) == modules
    assert torch.equal(model.model(IDS).logits, exact)
