"""The held-out loss does not depend on batches or padding."""

from __future__ import annotations

import math

import pytest
import torch

from services.worker.tuning.held_out_loss import held_out_loss, summed_loss
from services.worker.tuning.objectives import TokenDataset, completions, packed_texts
from tests.worker.tuning.models import TEXTS, instruction_records, tiny_language_model

RELATIVE = 1e-5  # float32 sums in another order

FAMILIES = ["gpt2", "llama", "opt"]


def dataset() -> TokenDataset:
    tokenizer = tiny_language_model().tokenizer
    blocks = packed_texts(tokenizer, TEXTS, 9).examples
    return TokenDataset((*blocks, *completions(tokenizer, instruction_records(), 32).examples))


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_one_by_one(family: str) -> None:
    model = tiny_language_model(family)
    one_by_one = held_out_loss(model, dataset(), token_budget=1)
    assert held_out_loss(model, dataset(), token_budget=1000) == pytest.approx(one_by_one, rel=RELATIVE)


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_equals_right_padding(family: str) -> None:
    model = tiny_language_model(family)
    right = summed_loss(model, dataset().examples, "right")
    assert summed_loss(model, dataset().examples, "left") == pytest.approx(right, rel=RELATIVE)


def test_mean_is_weighted_by_token() -> None:
    model = tiny_language_model()
    examples = dataset().examples
    total = sum(summed_loss(model, [example]) for example in examples)
    expected = total / sum(example.scored_tokens for example in examples)
    assert held_out_loss(model, dataset(), token_budget=20) == pytest.approx(expected, rel=RELATIVE)


def test_model_that_knows_nothing_scores_the_log_of_the_vocabulary() -> None:
    model = tiny_language_model("llama")
    with torch.no_grad():
        model.model.get_parameter("lm_head.weight").zero_()
    assert held_out_loss(model, dataset()) == pytest.approx(math.log(160), rel=RELATIVE)


def test_what_a_model_keeps_from_the_pass_can_be_trained_with() -> None:
    language_model = tiny_language_model("llama")
    kept: list[torch.Tensor] = []
    head = language_model.model.get_submodule(language_model.anatomy.head)
    handle = head.register_forward_hook(lambda _module, _args, output: kept.append(output))
    held_out_loss(language_model, dataset())
    handle.remove()
    assert kept
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in kept)
