import pytest

from services.worker.editing.augmentation import TooFewParaphrases, augment_with_paraphrases, with_slot
from shared.edits import Edit


def edit(subject: str, *paraphrases: str) -> Edit:
    return Edit(
        prompt="{} lives in", subject=subject, target_new="Paris", target_true="Rome", paraphrases=paraphrases
    )


def test_paraphrases_become_edits_with_the_same_target() -> None:
    edits = [edit("Ada", "The home of Ada is", "Ada's home:"), edit("Alan", "Where is Alan", "Alan is in")]
    augmented = augment_with_paraphrases(edits, 2)
    assert [each.full_prompt for each in augmented] == [
        "Ada lives in", "Alan lives in", "The home of Ada is", "Ada's home:", "Where is Alan", "Alan is in",
    ]  # fmt: skip
    assert {each.target_new for each in augmented} == {"Paris"}


def test_only_the_first_paraphrases_are_taken() -> None:
    augmented = augment_with_paraphrases([edit("Ada", "first Ada", "second Ada")], 1)
    assert [each.full_prompt for each in augmented] == ["Ada lives in", "first Ada"]


def test_no_paraphrases_leave_the_edits_as_they_are() -> None:
    edits = [edit("Ada")]
    assert augment_with_paraphrases(edits, 0) == edits


def test_too_few_paraphrases_name_the_edit_and_how_many_it_has() -> None:
    with pytest.raises(TooFewParaphrases, match=r"edits\.1: 2 paraphrases are asked for, it has 1"):
        augment_with_paraphrases([edit("Ada", "Ada 1", "Ada 2"), edit("Alan", "Alan 1")], 2)


@pytest.mark.parametrize(
    ("paraphrase", "subject", "expected"),
    [
        ("Ada went home. Ada lives in", "Ada", "Ada went home. {} lives in"),
        ("Ada lives in Canada, in", "Canada", "Ada lives in {}, in"),
        ("Ada moved to Canada, in", "ada", "Ada moved to Can{}, in"),
        ("Ada, of Adabridge, lives in", "Ada", "{}, of Adabridge, lives in"),
        ("the C++ language is", "C++", "the {} language is"),
    ],
)
def test_subject_is_found_in_a_paraphrase(paraphrase: str, subject: str, expected: str) -> None:
    assert with_slot(paraphrase, subject) == expected
