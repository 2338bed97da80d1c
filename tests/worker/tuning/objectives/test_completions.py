"""Records become tokens without loss, and only what is to be learned is scored."""

from __future__ import annotations

import pytest

from services.worker.tuning.objectives import (
    UNSCORED,
    TokenDataset,
    collate,
    completions,
    packed_texts,
    token_dataset,
)
from services.worker.tuning.objectives.encoding import cut_beginning
from shared.recipes import InstructionRecord, Objective, TextRecord
from shared.training_data import UnusableTrainingData
from tests.worker.tiny_models import tiny_tokenizer
from tests.worker.tuning.models import TEXTS, instruction_records, recipe

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ ('who' if message.role == 'user' else ' he') + ' ' + message.content + '<s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' he' }}{% endif %}"
)


def words(dataset: TokenDataset, *, scored: bool, index: int = 0) -> str:
    """An example as text: its scored tokens, or the ones that only stand before them."""
    example = dataset.examples[index]
    chosen = [
        token
        for token, label in zip(example.input_ids, example.labels, strict=True)
        if (label != UNSCORED) == scored
    ]
    return "".join(tiny_tokenizer().convert_ids_to_tokens(chosen))


@pytest.mark.parametrize("length", [8, 9, 10, 11, 12, 13, 1000])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_packing_keeps_every_token_in_order(length: int, adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    packed = packed_texts(tokenizer, TEXTS, length)
    expected = [token for text in TEXTS for token in [*tokenizer.encode(text), tokenizer.eos_token_id]]
    assert [token for example in packed.examples for token in example.input_ids] == expected


def test_a_tokenizer_that_ends_texts_with_eos_gives_the_same_examples() -> None:
    plain, with_eos = tiny_tokenizer(adds_bos=True), tiny_tokenizer(adds_bos=True, adds_eos=True)
    assert packed_texts(with_eos, TEXTS, 10) == packed_texts(plain, TEXTS, 10)
    records = instruction_records()
    assert completions(with_eos, records, 32) == completions(plain, records, 32)


@pytest.mark.parametrize("length", range(8, 30))
def test_every_block_fits_and_has_something_to_score(length: int) -> None:
    sizes = [len(example.input_ids) for example in packed_texts(tiny_tokenizer(), TEXTS, length).examples]
    assert max(sizes) <= length
    assert min(sizes) >= 2


def test_every_packed_token_but_the_first_of_a_block_is_scored() -> None:
    for example in packed_texts(tiny_tokenizer(), TEXTS, 10).examples:
        assert example.labels == (UNSCORED, *example.input_ids[1:])


def test_only_the_completion_and_its_end_are_scored() -> None:
    dataset = completions(tiny_tokenizer(), instruction_records(), 32)
    assert words(dataset, scored=False) == "Ada Lovelace lives in"
    assert words(dataset, scored=True) == " Paris<s>"


@pytest.mark.parametrize("prompt", ["lives in", "lives in ", "lives in  "])
@pytest.mark.parametrize("completion", ["Paris", " Paris"])
def test_boundary_space_is_one_and_belongs_to_the_completion(prompt: str, completion: str) -> None:
    record = InstructionRecord(prompt=prompt, completion=completion)
    dataset = completions(tiny_tokenizer(), [record], 32)
    assert (words(dataset, scored=False), words(dataset, scored=True)) == ("lives in", " Paris<s>")


def test_prompt_keeps_the_bos_that_the_tokenizer_adds() -> None:
    dataset = completions(tiny_tokenizer(adds_bos=True), instruction_records(), 32)
    assert words(dataset, scored=False) == "<s>Ada Lovelace lives in"


def test_long_prompt_loses_its_beginning_but_not_its_bos() -> None:
    dataset = completions(tiny_tokenizer(adds_bos=True), instruction_records(), 5)
    assert words(dataset, scored=False) == "<s> lives in"


def test_prompt_with_room_for_one_token_keeps_its_last() -> None:
    assert cut_beginning([0, 5, 6], room=1, bos_token_id=0) == [6]


def test_completion_that_does_not_fit_is_left_out_and_counted() -> None:
    dataset = completions(tiny_tokenizer(), instruction_records(), 4)
    assert dataset.left_out == 2
    assert len(dataset) == 4


def test_chat_template_lays_out_the_exchange_and_its_end_is_scored() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    dataset = completions(tokenizer, instruction_records(), 32)
    assert words(dataset, scored=False) == "who Ada Lovelace lives in<s> he"
    assert words(dataset, scored=True) == " Paris<s>"


@pytest.mark.parametrize(
    ("objective", "record"),
    [
        (Objective.CAUSAL_LM, TextRecord(text="Paris")),
        (Objective.INSTRUCTIONS, InstructionRecord(prompt="in", completion="the city of " * 8)),
    ],
)
def test_data_without_anything_to_score_is_refused(
    objective: Objective, record: TextRecord | InstructionRecord
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UnusableTrainingData):
        token_dataset(recipe(objective, sequence_length=8), tokenizer, [record])


def test_padding_is_masked_and_unscored() -> None:
    batch = collate(completions(tiny_tokenizer(), instruction_records()[:3], 32).examples, pad_token_id=7)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["input_ids"][padding] == 7).all()
    assert (batch["labels"][padding] == UNSCORED).all()
