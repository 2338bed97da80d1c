from typing import Any

import pytest
from pydantic import ValidationError

from shared.edits import ControlFact, Edit

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
