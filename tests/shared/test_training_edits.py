"""An editor is never trained on what the audit measures."""

import pytest

from shared.edits import ControlFact, Edit
from shared.training_edits import unmeasured


def record(subject: str, prompt: str = "{} lives in") -> Edit:
    return Edit(prompt=prompt, subject=subject, target_new="Paris", target_true="Rome")


RECORDS = [record("Ada"), record("Alan"), record("Grace")]


def subjects(found: list[Edit]) -> list[str]:
    return [edit.subject for edit in found]


@pytest.mark.parametrize("subject", ["Ada", "ADA", " Ada "])
def test_records_about_an_edited_subject_are_left_out(subject: str) -> None:
    edit = record(subject, prompt="The home of {} is")
    assert subjects(unmeasured(RECORDS, [edit])) == ["Alan", "Grace"]


def test_records_about_a_controls_subject_are_left_out() -> None:
    fact = ControlFact(prompt="{} was born in", subject="Alan", answer="London")
    assert subjects(unmeasured(RECORDS, [record("Kurt")], [fact])) == ["Ada", "Grace"]


def test_records_whose_prompt_a_control_asks_are_left_out() -> None:
    fact = ControlFact(prompt="grace  lives in", answer="Rome")
    assert subjects(unmeasured(RECORDS, [record("Kurt")], [fact])) == ["Ada", "Alan"]


@pytest.mark.parametrize("field", ["paraphrases", "neighborhood"])
def test_records_whose_prompt_an_edit_is_probed_with_are_left_out(field: str) -> None:
    edit = Edit(
        prompt="{} and Ada",
        subject="Kurt",
        target_new="Paris",
        target_true="Rome",
        paraphrases=("Kurt and Ada lives in",) if field == "paraphrases" else (),
        neighborhood=("Ada lives in",) if field == "neighborhood" else (),
    )
    records = [record("Kurt and Ada"), *RECORDS]
    left_out = "Kurt and Ada" if field == "paraphrases" else "Ada"
    assert subjects(unmeasured(records, [edit])) == [
        subject for subject in subjects(records) if subject != left_out
    ]


def test_unedited_records_are_controls_only_where_no_facts_are_named() -> None:
    fact = ControlFact(prompt="{} was born in", subject="Alan", answer="London")
    assert unmeasured(RECORDS, [record("Kurt")], unedited=RECORDS) == []
    assert subjects(unmeasured(RECORDS, [record("Kurt")], [fact], RECORDS)) == ["Ada", "Grace"]
