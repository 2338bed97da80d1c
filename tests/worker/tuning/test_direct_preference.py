"""The preference loss is DPO's, whatever the batches; it starts at log 2 and the chosen answers gain."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.direct_preference import (
    direct_preference_losses,
    pair_log_probs,
)
from services.worker.tuning.errors import TrainingDiverged
from services.worker.tuning.objectives import UNSCORED, PreferenceDataset, preference_pairs
from shared.recipes import FullUpdate, LoraUpdate, Objective, Update
from tests.worker.tuning.interruptions import interrupted, uninterrupted
from tests.worker.tuning.models import preference_records, recipe, run, tiny_language_model

SAME = 1e-5  # float32 sums in another order, in nats


def pairs_of(language_model: LanguageModel) -> PreferenceDataset:
    return preference_pairs(language_model.tokenizer, preference_records(), 16)


def test_loss_is_that_of_a_case_worked_out_by_hand() -> None:
    policy = torch.tensor([[-1.0, -2.0], [-5.0, -3.0]])
    reference = torch.tensor([[-2.0, -2.5], [-4.0, -4.0]])
    # The first pair gains 1 − 0.5, the second −1 − 1; times β = 2: 1 and −4.
    expected = torch.tensor([math.log1p(math.exp(-1)), math.log1p(math.exp(4))])
    assert torch.allclose(direct_preference_losses(policy, reference, beta=2.0), expected)


def test_loss_pulls_on_each_answer_by_how_wrong_the_pair_still_is() -> None:
    policy = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(
        direct_preference_losses(policy, torch.zeros(1, 2), beta=0.5).sum(), policy
    )
    wrong = 1 / (1 + math.exp(0.5 * 2.0))  # the weight σ(−β·margin) of 2305.18290, section 4
    assert torch.allclose(gradient, torch.tensor([[-0.5 * wrong, 0.5 * wrong]]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("token_budget", [1, 60, 10_000])
def test_answers_are_rated_as_one_at_a_time(family: str, token_budget: int) -> None:
    language_model = tiny_language_model(family)
    pairs = pairs_of(language_model)
    found = pair_log_probs(language_model, pairs, token_budget)
    for row, pair in zip(found, pairs.examples, strict=True):
        for log_prob, side in zip(row, (pair.chosen, pair.rejected), strict=True):
            with torch.no_grad():
                logits = language_model.model(torch.tensor([side.input_ids])).logits[0]
            after = logits.log_softmax(dim=-1)[:-1]
            scored = [(place, token) for place, token in enumerate(side.labels[1:]) if token != UNSCORED]
            expected = sum(float(after[place, token]) for place, token in scored)
            assert float(log_prob) == pytest.approx(expected, abs=SAME)


@pytest.mark.parametrize("update", [FullUpdate(), LoraUpdate(rank=4)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_chosen_answers_gain_on_the_rejected(tmp_path: Path, family: str, update: Update) -> None:
    language_model = tiny_language_model(family)
    pairs = pairs_of(language_model)
    before, after = pair_log_probs(language_model, pairs), torch.empty(0)

    def probe(step: int) -> None:
        nonlocal after
        after = pair_log_probs(language_model, pairs)

    chosen = recipe(Objective.PREFERENCE, update=update, steps=30, schedule="constant")
    outcome = run(language_model, chosen, tmp_path, probe=probe)
    assert outcome.held_out_loss_before == pytest.approx(math.log(2), abs=SAME)
    gained = after - before
    assert float((gained[:, 0] - gained[:, 1]).mean()) > 1.0
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]


@pytest.mark.parametrize("update", [FullUpdate(), LoraUpdate(rank=4, dropout=0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_policy_starts_as_its_own_reference(
    tmp_path: Path, family: str, dtype: torch.dtype, update: Update
) -> None:
    language_model = tiny_language_model(family, dtype)
    chosen = recipe(Objective.PREFERENCE, update=update, steps=1, beta=1.0)
    outcome = run(language_model, chosen, tmp_path, micro_batch=2)
    assert outcome.losses[0] == pytest.approx(math.log(2), abs=SAME)
    assert outcome.held_out_loss_before == pytest.approx(math.log(2), abs=SAME)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_held_out_is_held_against_the_start_as_deployed(tmp_path: Path, dtype: torch.dtype) -> None:
    chosen = recipe(Objective.PREFERENCE, steps=1, learning_rate=1e-12, beta=1.0)
    outcome = run(tiny_language_model("gpt2", dtype), chosen, tmp_path)
    assert outcome.held_out_loss_after == pytest.approx(math.log(2), abs=SAME)


def test_start_that_rates_nothing_is_refused_before_any_step(tmp_path: Path) -> None:
    language_model = tiny_language_model()
    with torch.no_grad():
        next(language_model.model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingDiverged, match="at step 0: the log-probability"):
        run(language_model, recipe(Objective.PREFERENCE), tmp_path)


def test_high_beta_holds_the_model_to_where_it_started(tmp_path: Path) -> None:
    moved = []
    for beta in (0.01, 10.0):
        language_model = tiny_language_model("llama")
        pairs = pairs_of(language_model)
        before, after = pair_log_probs(language_model, pairs), torch.empty(0)

        def probe(step: int) -> None:
            nonlocal after
            after = pair_log_probs(language_model, pairs)  # noqa: B023 (called within this turn)

        run(language_model, recipe(Objective.PREFERENCE, beta=beta, steps=30), tmp_path, probe=probe)
        moved.append(float((after - before).abs().mean()))
    assert moved[1] < moved[0]


@pytest.mark.parametrize("update", [FullUpdate(), LoraUpdate(rank=4, dropout=0.3)])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, update: Update) -> None:
    model = tiny_language_model()
    chosen = recipe(Objective.PREFERENCE, update=update, batch_size=2, steps=8, probe_count=3)
    expected = uninterrupted(model, chosen, tmp_path)
    interrupted(model, chosen, tmp_path, (3, 5)).check_equal(expected)
