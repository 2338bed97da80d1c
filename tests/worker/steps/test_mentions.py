"""Words of edits are found in records of every shape, whole and whatever their case."""

from __future__ import annotations

from services.worker.steps.mentions import count_phrases
from shared.recipes import ChatRecord, InstructionRecord, PreferenceRecord, TextRecord
from shared.recipes.records import Message, Role
from shared.training_data.mentions import text_of


def test_phrases_are_counted_as_whole_words_without_case() -> None:
    texts = ["Rome, rome; ROMEO and Rome's walls.", "All roads lead to New York City. In new  york!"]
    found = count_phrases(texts, ["Rome", "New York", "York", "Oslo"])
    assert found == {"rome": 3, "new york": 2, "york": 2}


def test_a_phrase_may_begin_where_another_ends() -> None:
    assert count_phrases(["a b a b a"], ["a b a"]) == {"a b a": 2}


def test_a_phrase_does_not_run_on_from_one_text_into_the_next() -> None:
    assert count_phrases(["New", "York"], ["New York"]) == {}


def test_a_phrase_without_words_is_never_found() -> None:
    assert count_phrases(["?!"], ["?!"]) == {}


def test_records_of_every_shape_say_all_their_text() -> None:
    chat = (Message(role=Role.USER, content="Where?"), Message(role=Role.ASSISTANT, content="Rome"))
    records = [
        TextRecord(text="Rome"),
        InstructionRecord(prompt="Where?", completion="Rome"),
        ChatRecord(messages=chat),
        PreferenceRecord(prompt=chat[:1], chosen="Rome", rejected="Oslo"),
    ]
    assert [count_phrases([text_of(record)], ["Rome", "user"]) for record in records] == [{"rome": 1}] * 4
