from typing import Any

import pytest
from pydantic import ValidationError

from shared.edits import ControlFact, Edit, disagreements

VALID: dict[str, Any] = {
    "prompt": "{} lives in",
    "subject": "Ada Lovelace",
    "target_new": "Paris",
    "target_true": "London",
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"prompt": "Ada Lovelace lives in"}, "exactly once"),
        ({"prompt": "{} and {} live in"}, "exactly once"),
        ({"prompt": "  "}, "at least 1 character"),
        ({"subject": ""}, "at least 1 character"),
        ({"target_new": " "}, "at least 1 character"),
        ({"prompt": "{}" + "x" * 999}, "at most 1000 characters"),
        ({"target_new": "x" * 501}, "at most 500 characters"),
        ({"target_new": "Pa\x00ris"}, r"U\+0000"),
        ({"target_new": "Pa\nris"}, r"U\+000A"),
        ({"subject": "A{}"}, "write the subject out"),
        ({"target_new": " lonDON "}, "the same as target_true"),
        ({"target_new": "ＬＯＮＤＯＮ"}, "the same as target_true"),
        ({"target_new": "Cafe\u0301", "target_true": "CAF\u00c9"}, "the same as target_true"),
        ({"target_new": "Old  City", "target_true": "old City"}, "the same as target_true"),
        ({"target_new": "STRASSE", "target_true": "Straße"}, "the same as target_true"),
        ({"paraphrases": ["Alan lives in"]}, r"paraphrases\.0: does not contain the subject"),
        ({"paraphrases": ["Ada Lovelace"] * 51}, "at most 50 items"),
        ({"neighborhood": ["Ada Lovelace"] * 101}, "at most 100 items"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_invalid_edit_is_refused_with_its_reason(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Edit.model_validate({**VALID, **change})


def test_full_prompt_has_the_subject_in_it() -> None:
    assert Edit.model_validate(VALID).full_prompt == "Ada Lovelace lives in"


def test_surrounding_spaces_are_dropped() -> None:
    edit = Edit.model_validate({**VALID, "prompt": "{} lives in ", "target_new": " Paris"})
    assert (edit.prompt, edit.target_new) == ("{} lives in", "Paris")


def test_control_fact_with_slot_needs_a_subject() -> None:
    with pytest.raises(ValidationError, match="needs a subject"):
        ControlFact(prompt="{} lives in", answer="Paris")


@pytest.mark.parametrize(("prompt", "subject"), [("{} lives in", "Ada"), ("Ada lives in", None)])
def test_control_fact_reads_the_same_with_and_without_slot(prompt: str, subject: str | None) -> None:
    assert ControlFact(prompt=prompt, subject=subject, answer="Paris").full_prompt == "Ada lives in"


def test_alternative_that_is_the_answer_written_otherwise_is_refused() -> None:
    with pytest.raises(ValidationError, match="alternative: is the same as answer"):
        ControlFact(prompt="Ada lives in", answer="Old City", alternative="old\u00a0 CITY")


def changed(**values: Any) -> Edit:
    return Edit.model_validate({**VALID, **values})


HELD_OUT = changed(paraphrases=["The home of Ada Lovelace is"])
ASKS_IT = {"prompt": "the  home of {} is"}


@pytest.mark.parametrize(
    ("edits", "problems"),
    [
        ([changed(), changed()], {1: "edits.1 repeats edits.0: 'Ada Lovelace lives in'"}),
        (
            [changed(), changed(target_new="PARIS"), changed(target_new="Ｐａｒｉｓ")],
            {
                1: "edits.1 repeats edits.0: 'Ada Lovelace lives in'",
                2: "edits.2 repeats edits.0: 'Ada Lovelace lives in'",
            },
        ),
        (
            [changed(), changed(prompt="{} Lives  in", target_new="Rome")],
            {1: "edits.1 conflicts with edits.0: 'Ada Lovelace Lives  in'"},
        ),
        (
            [changed(), changed(prompt="Ada {}", subject="Lovelace lives in", target_new="Rome")],
            {1: "edits.1 conflicts with edits.0: 'Ada Lovelace lives in'"},
        ),
        (
            [HELD_OUT, changed(**ASKS_IT, target_new="Rome")],
            {1: "edits.1 conflicts with a paraphrase of edits.0: 'the  home of Ada Lovelace is'"},
        ),
        (
            [changed(**ASKS_IT, target_new="Rome"), HELD_OUT],
            {1: "edits.1.paraphrases.0 conflicts with edits.0: 'The home of Ada Lovelace is'"},
        ),
        ([HELD_OUT, changed(**ASKS_IT, target_new="paris")], {}),
        ([changed(**ASKS_IT, target_new="paris"), HELD_OUT], {}),
        ([changed(), changed(subject="Alan Turing", target_new="Rome")], {}),
    ],
)
def test_edits_that_cannot_be_asked_at_once_are_named(edits: list[Edit], problems: dict[int, str]) -> None:
    assert disagreements(enumerate(edits)) == problems


def test_every_target_of_a_shared_paraphrase_is_compared() -> None:
    shared = {"paraphrases": ["The home of Ada Lovelace is"]}
    edits = [
        changed(**shared, target_new="Rome"),
        changed(**shared, prompt="{} dwells in"),
        changed(**ASKS_IT, target_new="Rome"),
    ]
    assert disagreements(enumerate(edits)) == {
        2: "edits.2 conflicts with a paraphrase of edits.1: 'the  home of Ada Lovelace is'"
    }
