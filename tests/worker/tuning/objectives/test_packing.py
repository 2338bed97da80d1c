"""Documents that share a sequence are learned as if each stood alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.held_out_loss import held_out_loss
from services.worker.tuning.objectives import (
    UNSCORED,
    Example,
    TokenDataset,
    check_packing,
    collate,
    completions,
    separate_texts,
    separates_documents,
    token_count,
    token_dataset,
    training_and_held_out,
)
from services.worker.tuning.objectives.packing import best_fit, packed
from shared.recipes import Objective, Packing
from tests.worker.tiny_models import CONFIGS, tiny_model, tiny_tokenizer
from tests.worker.tuning.models import (
    TEXTS,
    instruction_records,
    recipe,
    run,
    text_records,
    tiny_language_model,
)

ATOL = 2e-5  # float32 sums in another order
LOOKS_ACROSS = {"opt"}  # makes its mask without the positions
SEPARATING = [family for family in CONFIGS if family not in LOOKS_ACROSS]


def language_model(family: str) -> LanguageModel:
    return prepare_language_model(tiny_model(family), tiny_tokenizer(), "test:tiny", "0")


def documents() -> list[Example]:
    tokenizer = tiny_tokenizer()
    return [Example(tuple(ids), (UNSCORED, *ids[1:])) for ids in (tokenizer.encode(text) for text in TEXTS)]


def logits_of(model: LanguageModel, examples: list[Example]) -> torch.Tensor:
    batch = collate(examples, model.pad_token_id)
    del batch["labels"]
    with torch.no_grad():
        return model.model(**batch, use_cache=False).logits


@pytest.mark.parametrize("attention", ["the model's own", "eager"])
@pytest.mark.parametrize("family", SEPARATING)
def test_logits_of_a_packed_document_are_those_of_the_document_alone(family: str, attention: str) -> None:
    model = language_model(family)
    if attention == "eager":
        model.model.set_attn_implementation(attention)
    packed_rows = list(packed(documents(), 40))
    assert len(packed_rows) < len(documents())
    together = logits_of(model, packed_rows)
    alone = {document.input_ids: logits_of(model, [document])[0] for document in documents()}
    for row, example in enumerate(packed_rows):
        starts = [index for index, position in enumerate(example.position_ids) if position == 0]

        for start, end in zip(starts, [*starts[1:], len(example.input_ids)], strict=True):
            expected = alone[example.input_ids[start:end]]
            torch.testing.assert_close(together[row, start:end], expected, atol=ATOL, rtol=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_found_out_whether_a_model_looks_across_documents(family: str) -> None:
    assert separates_documents(language_model(family)) == (family in SEPARATING)


@pytest.mark.parametrize("family", sorted(LOOKS_ACROSS))
def test_separate_packing_is_refused_for_a_model_that_looks_across_documents(family: str) -> None:
    with pytest.raises(RecipeDoesNotFit, match="separate"):
        check_packing(language_model(family), recipe(packing=Packing.SEPARATE))
    check_packing(language_model(family), recipe())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_packed_instructions_have_the_loss_of_unpacked_ones(family: str) -> None:
    model = language_model(family)
    unpacked = completions(model.tokenizer, instruction_records(), 32)
    dataset = TokenDataset(packed(unpacked.examples, 32))
    assert len(dataset) < len(unpacked)
    assert held_out_loss(model, dataset) == pytest.approx(held_out_loss(model, unpacked), rel=1e-5)


def test_packing_of_a_recipe_keeps_every_example_and_counts_what_was_left_out() -> None:
    chosen = recipe(Objective.INSTRUCTIONS, packing=Packing.SEPARATE, sequence_length=8)
    dataset = token_dataset(chosen, tiny_tokenizer(), instruction_records())
    unpacked = token_dataset(
        chosen.model_copy(update={"packing": None}), tiny_tokenizer(), instruction_records()
    )
    assert dataset.left_out == unpacked.left_out
    assert sum(example.scored_tokens for example in dataset.examples) == sum(
        example.scored_tokens for example in unpacked.examples
    )


@pytest.mark.parametrize("length", [8, 9, 13, 64])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_separate_packing_keeps_every_token_and_ends_every_text(length: int, adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    dataset = separate_texts(tokenizer, TEXTS, length)
    expected = [token for text in TEXTS for token in [*tokenizer.encode(text), tokenizer.eos_token_id]]
    found = [token for example in dataset.examples for token in example.input_ids]
    assert sorted(found) == sorted(expected)
    for example in dataset.examples:
        assert len(example.input_ids) <= length
        unscored = [label == UNSCORED for label in example.labels]
        assert unscored == [position == 0 for position in example.position_ids]


def test_separate_packing_of_a_recipe_wastes_fewer_places_than_a_row_per_text() -> None:
    chosen = recipe(packing=Packing.SEPARATE, sequence_length=32)
    assert len(token_dataset(chosen, tiny_tokenizer(), text_records())) < len(TEXTS)


def plain_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing as its definition reads: every bin is looked at for every length."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rooms = [capacity - sum(lengths[other] for other in chosen) for chosen in bins]
        fitting = [bin_ for bin_, room in enumerate(rooms) if room >= lengths[index]]
        if fitting:
            bins[min(fitting, key=lambda bin_: rooms[bin_])].append(index)
        else:
            bins.append([index])
    return [sorted(chosen) for chosen in bins]


@pytest.mark.parametrize("capacity", [50, 64, 200])
@pytest.mark.parametrize("step", range(4))
def test_best_fit_does_what_its_definition_says(step: int, capacity: int) -> None:
    lengths = [1 + (7919 * index + 31 * step * index * index) % 50 for index in range(200)]
    assert best_fit(lengths, capacity) == plain_best_fit(lengths, capacity)


def test_best_fit_prefers_the_fullest_bin_with_room() -> None:
    assert best_fit([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]


def test_mixed_batches_give_every_single_document_its_plain_positions() -> None:
    single = documents()[0]
    batch = collate([single, packed(documents(), 32)[0]], pad_token_id=7)
    length = len(single.input_ids)
    assert batch["position_ids"][0, :length].tolist() == list(range(length))
    assert "attention_mask" not in batch


def test_padding_of_packed_batches_is_not_counted() -> None:
    examples = list(packed(documents(), 32))
    tokens = sum(len(example.input_ids) for example in examples)
    assert token_count(collate(examples, 7)) == tokens
    plain = [replace(example, position_ids=()) for example in examples]
    assert token_count(collate(plain, 7)) == tokens


def test_a_run_over_packed_documents_counts_its_tokens_without_padding(tmp_path: Path) -> None:
    chosen = recipe(packing=Packing.SEPARATE, sequence_length=32, batch_size=2, steps=2)
    assert chosen.data.records is not None
    training, _ = training_and_held_out(chosen, tiny_tokenizer(), chosen.data.records, (), seed=0)
    assert len(training) == chosen.batch_size  # so that a step is an epoch
    outcome = run(tiny_language_model(), chosen, tmp_path)
    epoch = sum(len(example.input_ids) for example in training.examples)
    assert outcome.tokens_seen == chosen.steps * epoch
    assert outcome.held_out_loss_after < outcome.held_out_loss_before


def test_a_run_tells_what_did_not_fit_and_what_was_cut(tmp_path: Path) -> None:
    chosen = recipe(Objective.INSTRUCTIONS, packing=Packing.SEPARATE, sequence_length=8, steps=1)
    dataset = completions(tiny_tokenizer(), instruction_records(), 8)
    assert dataset.shortened > 0
    outcome = run(tiny_language_model(), chosen, tmp_path)
    assert (outcome.left_out, outcome.shortened) == (dataset.left_out, dataset.shortened)
