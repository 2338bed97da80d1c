"""Entropy of n-grams by hand, perplexity by the plain forward pass, and the same chance for every model."""

from __future__ import annotations

from math import log2

import pytest
import torch

from services.worker.language_models.memory import GpuMemory
from services.worker.probing.fluency import (
    measure_fluency,
    n_gram_entropy,
    plain_texts,
    read_plainly,
    spread,
    write_freely,
)
from shared.docstrings import PERPLEXITY_MODULES, PRETRAINING_MODULES, TUNING_MODULES, docstring_paragraphs
from tests.worker.probing.test_scoring import language_model

TEXTS = ["She walked and saw the old town", "Rome", "The river and the road in Paris . He was born in Oslo"]


def test_entropy_of_n_grams_is_the_weighted_mean_of_the_papers_formula() -> None:
    # Bigrams of "a b a b a": ab, ba, ab, ba; trigrams: aba, bab, aba.
    trigrams = -(2 / 3 * log2(2 / 3) + 1 / 3 * log2(1 / 3))
    assert n_gram_entropy("a b a b a") == pytest.approx((2 / 3 * 1 + 4 / 3 * trigrams) / 2)


def test_a_text_that_repeats_itself_has_no_entropy_and_a_varied_one_has_much() -> None:
    assert n_gram_entropy("the " * 20) == 0
    assert n_gram_entropy("") == 0
    varied = n_gram_entropy(" ".join(f"w{index}" for index in range(34)))
    assert varied == pytest.approx((2 / 3 * log2(33) + 4 / 3 * log2(32)) / 2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_texts_cost_what_the_plain_forward_pass_says(family: str) -> None:
    model = language_model(family, adds_bos=family == "llama")
    nats, tokens = read_plainly(model, TEXTS, GpuMemory())
    expected = []
    for text in TEXTS:
        ids = torch.tensor([model.tokenizer.encode(text)])
        if ids.shape[1] > 1:
            loss = float(model.model(input_ids=ids, labels=ids).loss)
            expected.append((loss * (ids.shape[1] - 1), ids.shape[1] - 1))
    assert nats == pytest.approx([cost for cost, _ in expected], rel=1e-4)
    assert tokens == [count for _, count in expected]


def test_a_text_is_read_as_far_as_the_model_has_positions() -> None:
    _, tokens = read_plainly(language_model("gpt2"), [" ".join(["town"] * 80)], GpuMemory())
    assert tokens == [63]


def test_the_same_model_writes_the_same_and_prompts_without_room_are_passed_over() -> None:
    model = language_model("gpt2")
    prompts = ["The city of", " ".join(["town"] * 60), "She saw"]
    first, again = (write_freely(model, prompts, GpuMemory()) for _ in range(2))
    assert first == again
    assert [text[:11] for text in first] == ["The city of", first[1][:11]]
    assert first[1].startswith("She saw")


def test_sample_holds_a_number_per_text() -> None:
    found = measure_fluency(language_model("gpt2"), ["The city of", "She saw"], TEXTS, GpuMemory())
    assert len(found.entropies) == 2
    assert len(found.nats) == len(found.tokens) == 2  # one of the texts is a single token


def test_plain_texts_are_none_that_anything_is_trained_on() -> None:
    assert not set(PERPLEXITY_MODULES) & set(PRETRAINING_MODULES + TUNING_MODULES)
    texts = plain_texts()
    assert 100 <= len(texts) <= 200
    assert not set(texts) & set(docstring_paragraphs(TUNING_MODULES))


def test_items_are_taken_evenly() -> None:
    assert spread(list("abcdefgh"), 4) == ["a", "c", "e", "g"]
    assert spread(["a"], 4) == ["a"]
