"""What an update changes learns, what it does not is untouched, and all of it is taken away again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.freezing import NOTHING, Frozen, unchanged_where_frozen
from services.worker.tuning.updates import Learner, check_update_fits, trainable
from tests.worker.tuning.interruptions import interrupted, uninterrupted
from tests.worker.tuning.models import changed, recipe, run, tiny_language_model, weights_of
from tests.worker.tuning.updates.table import DTYPES, EVERYWHERE, UPDATES, VIRTUAL

# A gradient of one size moves few numbers in a row (IA³, BitFit) less than whole matrices.
LEARNING_RATES = {"ia3": 0.1, "bitfit": 0.03, "prompt_tuning": 0.3, "prefix_tuning": 0.3}
FROZEN = Frozen((1, 2))


@pytest.mark.parametrize(("family", "kind"), EVERYWHERE)
def test_every_family_learns_where_it_is_not_frozen_and_is_restored(family: str, kind: str) -> None:
    model, update = tiny_language_model(family), UPDATES[kind]
    before, modules, positions = weights_of(model), dict(model.model.named_modules()), model.context_length
    check_update_fits(model, update, FROZEN if update.changes_weights else NOTHING)
    assert changed(before, weights_of(model)) == set()
    with trainable(model, update, FROZEN if update.changes_weights else NOTHING) as learner:
        with unchanged_where_frozen(learner.model):
            losses = losses_of_steps(model, learner, LEARNING_RATES.get(kind, 1e-2))
        learning = [name for name, weight in learner.model.named_parameters() if weight.requires_grad]
        assert not any(name.startswith(in_blocks(model, FROZEN)) for name in learning)
    assert losses[-1] < 0.97 * losses[0]
    assert changed(before, weights_of(model)) == set()
    assert dict(model.model.named_modules()) == modules
    assert model.context_length == positions
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.model.modules())


def in_blocks(model: LanguageModel, frozen: Frozen) -> tuple[str, ...]:
    return tuple(f"{model.anatomy.blocks[block]}." for block in frozen.blocks)


def losses_of_steps(model: LanguageModel, learner: Learner, learning_rate: float) -> list[float]:
    """Of a few steps over one batch."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17, 18]], device=model.device)
    learning = [weight for weight in learner.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate)
    losses = []
    for _ in range(8):
        logits = model.model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        assert logits.shape[:2] == ids.shape
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return losses


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_learns_in_float32_and_is_restored(kind: str, dtype: torch.dtype) -> None:
    model = tiny_language_model(dtype=dtype)
    before = weights_of(model)
    with trainable(model, UPDATES[kind], NOTHING) as learner:
        learning = {weight.dtype for weight in learner.model.parameters() if weight.requires_grad}
        with torch.no_grad():
            for weight in learner.model.parameters():
                if weight.requires_grad:
                    weight.add_(1)
        learner.model.train()
        with learner.as_deployed():
            assert model.model(torch.tensor([[5, 6, 7]])).logits.dtype is dtype
    assert learning == {torch.float32}
    assert changed(before, weights_of(model)) == set()
    assert model.dtype == dtype
    assert not any(weight.requires_grad for weight in model.model.parameters())
    assert not any(module.training for module in model.model.modules())


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_in_every_dtype_gives_finite_losses(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    chosen = recipe(update=UPDATES[kind], steps=2, learning_rate=1e-3)
    outcome = run(tiny_language_model("gpt2", dtype), chosen, tmp_path)
    assert len(outcome.losses) == 2


@pytest.mark.parametrize("kind", UPDATES)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    model = tiny_language_model()
    chosen = recipe(update=UPDATES[kind], batch_size=2, probe_count=3)
    expected = uninterrupted(model, chosen, tmp_path)
    interrupted(model, chosen, tmp_path, (2, 4)).check_equal(expected)


@pytest.mark.parametrize("kind", sorted({*UPDATES} - {"full", "bitfit"}))
def test_weights_of_the_model_stay_under_updates_beside_them(tmp_path: Path, kind: str) -> None:
    model = tiny_language_model()
    before = dict(weights_of(model))
    found: list[dict[str, torch.Tensor]] = []
    run(model, recipe(update=UPDATES[kind]), tmp_path, probe=lambda step: found.append(weights_of(model)))
    after = {name.replace(".base_layer", ""): weight for name, weight in found[-1].items()}
    assert {name for name in before if not torch.equal(before[name], after[name])} == set()


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_begin_as_the_seed_has_it(tmp_path: Path, kind: str) -> None:
    model = tiny_language_model("llama")
    chosen = recipe(update=VIRTUAL[kind], steps=1)
    first = run(model, chosen, tmp_path, seed=1).losses
    assert run(model, chosen, tmp_path, seed=1).losses == first
    assert run(model, chosen, tmp_path, seed=2).losses != first
