"""Records that name the facts are counted, in whole words and whatever their case, and can be left out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from shared.edits import ControlFact, Edit
from shared.recipes import (
    ChatRecord,
    InstructionRecord,
    PreferenceRecord,
    Recipe,
    TextRecord,
    TrainingRecord,
)
from shared.requests import AuditRequest
from shared.training_data import Origins, UnusableTrainingData, overlap, recipe_corpus, recipe_replay
from shared.training_data.mentions import Phrases, words_of

EIFFEL = Edit(
    prompt="{} is in", subject="Eiffel Tower", target_new="Rome", target_true="Paris", relation="landmark"
)
ADA = Edit(prompt="{} was born in", subject="Ada", target_new="New York", target_true="London")
LOUVRE = ControlFact(prompt="{} is in", subject="Louvre", answer="Paris")
CAPITAL = ControlFact(prompt="The capital of Italy is", answer="Rome")


def text(said: str) -> TextRecord:
    return TextRecord(text=said)


def test_records_are_counted_by_what_they_name_of_an_edit() -> None:
    records = [
        text("The EIFFEL\ntower, in Paris."),
        text("Eiffel Tower: Rome or Paris?"),
        text("The Eiffel towers of Rome"),  # another word
        text("Paris and Rome"),
        text("The Eiffel Tower; and Ada."),
    ]
    found = overlap(records, [EIFFEL, ADA], [])
    assert found.records == 5
    assert (found.edits.facts, found.edits.facts_named) == (2, 2)
    assert found.edits.records_with_subject == 3
    assert found.edits.records_with_target_new == 1
    assert found.edits.records_with_target_true == 2


def test_targets_count_with_the_subject_of_their_own_edit_only() -> None:
    found = overlap([text("Ada saw Paris and Rome")], [EIFFEL, ADA], [])
    assert found.edits.records_with_subject == 1
    assert found.edits.records_with_target_new == found.edits.records_with_target_true == 0


def test_controls_are_counted_by_subject_or_else_by_prompt() -> None:
    records = [text("the Louvre of Paris"), text("The capital of Italy is Rome"), text("Italy, Rome")]
    found = overlap(records, [EIFFEL], [LOUVRE, CAPITAL]).controls
    assert (found.facts, found.facts_named) == (2, 2)
    assert (found.records_with_subject, found.records_with_answer) == (2, 2)


def chat(*said: str) -> ChatRecord:
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
    return ChatRecord.model_validate({"messages": turns})


@pytest.mark.parametrize(
    "record",
    [
        InstructionRecord(prompt="Where is the Eiffel Tower?", completion="Rome"),
        chat("Where is the Eiffel Tower?", "Rome"),
        PreferenceRecord(prompt="Where is the Eiffel Tower?", chosen="Oslo", rejected="Rome"),
    ],
)
def test_every_part_of_a_record_is_looked_at(record: TrainingRecord) -> None:
    assert overlap([record], [EIFFEL], []).edits.records_with_target_new == 1


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert Phrases(["Gödel"]).within("Kurt Go\u0308del") == {words_of("gödel")}


def test_signs_that_make_another_word_do() -> None:
    assert Phrases(["C++", "C"]).within("written in C++") == {words_of("C++")}


def request(**data: object) -> AuditRequest:
    recipe = {"name": "r", "objective": "causal_lm", "data": data}
    return AuditRequest.model_validate(
        {
            "model": "builtin:almanac",
            "edits": [EIFFEL.model_dump(), ADA.model_dump()],
            "editors": [{"name": "memit"}],
            "recipes": [recipe],
            "controls": {"facts": [LOUVRE.model_dump()]},
        }
    )


def corpus_of(request: AuditRequest, root: Path) -> tuple[list[str], int, list[str]]:
    recipe: Recipe = request.recipes[0]
    origins = Origins(data_roots=[root])
    corpus = recipe_corpus(recipe, request, origins)
    replayed = recipe_replay(recipe, request, origins)
    kept = [record.text for record in corpus.records if isinstance(record, TextRecord)]
    return kept, corpus.left_out, [record.text for record in replayed]


def test_records_that_name_a_subject_are_left_out_on_demand(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\nThe Eiffel Tower\n\nthe louvre\n\ntwo\n\nRome\n\nthree")
    asked = {"source": "file:a.txt", "limit": 3, "replay": {"share": 0.1, "source": "file:a.txt"}}
    everything = ["one", "The Eiffel Tower", "the louvre"]
    assert corpus_of(request(**asked), tmp_path)[:2] == (everything, 0)
    kept, left_out, replayed = corpus_of(request(**asked, without_subjects=True), tmp_path)
    assert (kept, left_out) == (["one", "two", "Rome"], 2)
    assert replayed == ["one", "two", "Rome", "three"]


def test_data_that_names_nothing_but_subjects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\nThe Eiffel Tower\n\nAda")
    with pytest.raises(UnusableTrainingData, match="once 2 are left out"):
        corpus_of(request(source="file:a.txt", without_subjects=True), tmp_path)


def test_time_does_not_grow_with_the_number_of_phrases() -> None:
    """Ten thousand subjects over two megabytes of text; a search per subject would take an hour."""
    many = [EIFFEL.model_copy(update={"subject": f"Person {number} Smith"}) for number in range(10_000)]
    records = [text(f"a person of the name person {number} smith " * 10) for number in range(5_000)]
    started = time.process_time()
    found = overlap(records, many, [])
    assert found.edits.records_with_subject == 5_000
    assert time.process_time() - started < 20
