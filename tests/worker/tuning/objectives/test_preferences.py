"""Both answers of a preference stand after the same prompt, and only they are scored."""

from __future__ import annotations

import pytest

from services.worker.tuning.objectives import UNSCORED, Example, collate_preferences, preference_pairs
from shared.recipes import PreferenceRecord
from shared.training_data import UnusableTrainingData
from tests.worker.tiny_models import tiny_tokenizer
from tests.worker.tuning.models import preference_records
from tests.worker.tuning.objectives.test_chats import STABLE


def sides(example: Example) -> tuple[str, str]:
    tokens = tiny_tokenizer().convert_ids_to_tokens
    start = sum(label == UNSCORED for label in example.labels)
    return "".join(tokens(example.input_ids[:start])), "".join(tokens(example.input_ids[start:]))


CHAT = PreferenceRecord.model_validate(
    {
        "prompt": [
            {"role": "user", "content": "Ada Lovelace lives in"},
            {"role": "assistant", "content": "Rome"},
            {"role": "user", "content": "where"},
        ],
        "chosen": "Paris",
        "rejected": "the city",
    }
)


@pytest.mark.parametrize("template", [None, STABLE])
def test_both_answers_follow_the_same_prompt(template: str | None) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    records = [*preference_records(), CHAT]
    for pair, record in zip(preference_pairs(tokenizer, records, 64).examples, records, strict=True):
        (prompt, chosen), (same_prompt, rejected) = sides(pair.chosen), sides(pair.rejected)
        assert prompt == same_prompt
        assert (chosen.strip(), rejected.strip()) == (f"{record.chosen}<s>", f"{record.rejected}<s>")


def test_earlier_turns_of_the_prompt_are_kept() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = STABLE
    (pair,) = preference_pairs(tokenizer, [CHAT], 64).examples
    assert sides(pair.chosen)[0] == "who Ada Lovelace lives in<s> he Rome<s>who where<s> he"


def test_white_space_before_an_answer_does_not_change_the_prompt() -> None:
    record = PreferenceRecord(prompt="Ada Lovelace lives in", chosen="\nParis", rejected="Rome")
    (pair,) = preference_pairs(tiny_tokenizer(), [record], 64).examples
    assert sides(pair.chosen) == ("Ada Lovelace lives in", " Paris<s>")
    assert sides(pair.rejected) == ("Ada Lovelace lives in", " Rome<s>")


def test_a_long_prompt_is_cut_alike_for_both_answers() -> None:
    record = PreferenceRecord(prompt="Ada Lovelace lives in", chosen="Paris", rejected="the city of Rome")
    dataset = preference_pairs(tiny_tokenizer(), [record], 8)
    (pair,) = dataset.examples
    assert sides(pair.chosen)[0] == sides(pair.rejected)[0] == " Lovelace lives in"
    assert dataset.shortened == 1


def test_a_pair_of_which_one_answer_does_not_fit_is_left_out() -> None:
    longer = PreferenceRecord(prompt="in", chosen="Paris", rejected="the city of Rome and the city of Oslo")
    dataset = preference_pairs(tiny_tokenizer(), [*preference_records(), longer], 8)
    assert dataset.left_out == 1
    with pytest.raises(UnusableTrainingData):
        preference_pairs(tiny_tokenizer(), [longer], 8)


def test_collated_rows_are_the_chosen_ones_and_then_the_rejected_ones() -> None:
    pairs = preference_pairs(tiny_tokenizer(), preference_records(), 64).examples
    batch = collate_preferences(pairs, pad_token_id=7)
    for row, example in enumerate([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]):
        length = len(example.input_ids)
        assert batch["input_ids"][row, :length].tolist() == list(example.input_ids)
        assert batch["labels"][row, :length].tolist() == list(example.labels)
        assert int(batch["attention_mask"][row].sum()) == length
