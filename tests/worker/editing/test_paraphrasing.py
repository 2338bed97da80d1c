"""Paraphrases that edits do not come with: where they are from, and which of them are used."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from services.worker.editing.augmentation import augment_with_paraphrases
from services.worker.editing.paraphrase_filter import mentions, usable_paraphrases
from services.worker.editing.paraphrase_requests import (
    few_shot_prompt,
    first_line_of,
    instruction,
    lines_of,
)
from services.worker.editing.paraphrase_sources import (
    ROUNDS,
    Templates,
    TooFewUsableParaphrases,
    paraphrase_edits,
)
from services.worker.editing.written_paraphrases import WrittenElsewhere, WrittenHere
from services.worker.language_models.progress import Progress, untold
from shared.edits import Edit
from shared.paraphrases import LEAD_INS
from tests.worker.editing.cases import EDITS

EDIT = Edit(
    prompt="{} was born in the city of",
    subject="Ada Lovelace",
    target_new="Paris",
    target_true="London",
    paraphrases=("The birthplace of Ada Lovelace is",),
)


@pytest.mark.parametrize(
    "proposal",
    [
        "Ada Lovelace's place of birth is",
        "Ask anybody: the city in which Ada Lovelace was born is",
        "Where was Ada Lovelace born?",
        "  The native   city of Ada Lovelace is ",
        "Asked in comparison, Londres aside, Ada Lovelace was born in",
    ],
)
def test_a_paraphrase_is_used(proposal: str) -> None:
    assert usable_paraphrases(EDIT, [proposal]) == [" ".join(proposal.split())]


@pytest.mark.parametrize(
    "proposal",
    [
        pytest.param("Ada Lovelace was born in the city of Paris, in", id="gives the new answer away"),
        pytest.param("Ada Lovelace, a child of london, was born in", id="gives the true answer away"),
        pytest.param("Parisians say that Ada Lovelace was born in", id="gives it away in a derivation"),
        pytest.param(
            "In ＰＡＲＩＳ they say that Ada Lovelace was born in", id="gives it away in full width"
        ),
        pytest.param("She was born in the city of", id="does not name the subject"),
        pytest.param("ada lovelace was born in the town of", id="names the subject otherwise"),
        pytest.param("Ada Lovelace was born in the city of", id="repeats the prompt"),
        pytest.param("  ada  Lovelace was born in the city of:", id="names it otherwise and repeats it"),
        pytest.param("The birthplace of Ada Lovelace is", id="is held out"),
        pytest.param("The BIRTHPLACE of Ada Lovelace is ...", id="is held out but for case and marks"),
        pytest.param("Ada Lovelace was born in a big city.", id="is complete"),
        pytest.param("Born: Ada Lovelace\nin the city of", id="has two lines"),
        pytest.param("Ada Lovelace was {} in", id="has a slot"),
        pytest.param("Ada Lovelace was \x00 born in", id="has a control character"),
        pytest.param("Ada Lovelace", id="is the subject alone"),
        pytest.param("", id="is empty"),
        pytest.param("Ada Lovelace " + "of many names " * 10 + "was born in", id="is too long"),
    ],
)
def test_a_proposal_is_not_used(proposal: str) -> None:
    assert usable_paraphrases(EDIT, [proposal]) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("in New  York, she", "New York"),
        ("in New-York she", "new york"),
        ("in New York she", "New\u2011York"),
        ("A New Yorker, she", "New York"),
        ("the post-Paris years", "Paris"),
        ("at the Cafe\u0301 she", "CAF\u00c9"),
        ("彼は東京に住んでいて", "東京"),
        ("彼はParisに住んでいて", "Paris"),
        ("彼はC言語が好きで", "C"),
        ("เขาอาศัยอยู่ในกรุงเทพและ", "กรุงเทพ"),
        ("그는 서울에서 살며", "서울"),
        ("written in C, it", "C"),
        ("a - b", "-"),
    ],
)
def test_an_answer_is_found_however_it_is_written(text: str, answer: str) -> None:
    assert mentions(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("by comparison she", "Paris"),
        ("by caparison she", "Paris"),
        ("the city of her children", "C"),
        ("a new town near York", "New York"),
        ("彼は京都に住んでいて", "東京"),
        ("the capital, Romulus says", "Rome"),
        ("the capital", "-"),
    ],
)
def test_an_answer_is_not_found_inside_other_words(text: str, answer: str) -> None:
    assert not mentions(text, answer)


def test_each_proposal_is_used_once() -> None:
    proposals = ["The town where Ada Lovelace was born is", "the town where Ada Lovelace was born is:"]
    assert usable_paraphrases(EDIT, proposals) == proposals[:1]


def test_an_answer_that_the_prompt_itself_or_the_subject_mentions_gives_nothing_away() -> None:
    edit = Edit(
        prompt="{} of New York lives in", subject="Paris Hilton", target_new="Paris", target_true="New York"
    )
    proposal = "The home of Paris Hilton of New York is in"
    assert usable_paraphrases(edit, [proposal]) == [proposal]


def test_templates_keep_the_prompts_wording_and_suffice_for_as_many_as_there_are() -> None:
    found = paraphrase_edits(Templates(), EDITS, len(LEAD_INS), untold)
    for edit, paraphrases in zip(EDITS, found, strict=True):
        assert len(set(paraphrases)) == len(LEAD_INS)
        assert all(paraphrase.endswith(edit.full_prompt) for paraphrase in paraphrases)


def test_generated_paraphrases_become_edits_like_the_users_own() -> None:
    (paraphrases,) = paraphrase_edits(Templates(), [EDIT], 2, untold)
    generated = EDIT.model_copy(update={"paraphrases": paraphrases})
    augmented = augment_with_paraphrases([generated], 2)
    assert [edit.full_prompt for edit in augmented[1:]] == list(paraphrases)
    assert all(edit.subject == "Ada Lovelace" for edit in augmented)


class Scripted:
    """A source that proposes what it was told to, attempt by attempt, and remembers whom it was asked for."""

    name = "the script"

    def __init__(self, *attempts: dict[str, list[str]]) -> None:
        self.attempts = attempts
        self.asked: list[list[str]] = []

    def propose(self, edits: Sequence[Edit], count: int, attempt: int, progress: Progress) -> list[list[str]]:
        self.asked.append([edit.subject for edit in edits])
        progress(len(edits), len(edits))
        return [self.attempts[attempt].get(edit.subject, []) for edit in edits]


def numbered(edit: Edit, *numbers: int) -> list[str]:
    return [f"Phrasing number {number} of {edit.subject} is" for number in numbers]


def test_only_edits_with_too_few_usable_paraphrases_are_asked_for_again() -> None:
    first, second = EDITS[:2]
    source = Scripted(
        {first.subject: numbered(first, 1, 2, 3), second.subject: [*numbered(second, 1), "nonsense"]},
        {second.subject: numbered(second, 1, 2)},
    )
    told: list[tuple[int, int]] = []
    found = paraphrase_edits(source, [first, second], 2, lambda *share: told.append(share))
    assert found == [tuple(numbered(first, 1, 2)), tuple(numbered(second, 1, 2))]
    assert source.asked == [[first.subject, second.subject], [second.subject]]
    assert told[-1] == (2, 2)


def test_too_few_usable_paraphrases_name_the_edits() -> None:
    first, second = EDITS[:2]
    script = {first.subject: numbered(first, 1, 2), second.subject: numbered(second, 1)}
    source = Scripted(*[script] * ROUNDS)
    with pytest.raises(TooFewUsableParaphrases, match=r"the script .*\(edits\.1: 1 of 2\)$") as failure:
        paraphrase_edits(source, [first, second], 2, untold)
    assert failure.value.found == {1: 1}
    assert len(source.asked) == ROUNDS


def test_of_many_edits_with_too_few_paraphrases_some_are_named() -> None:
    failure = TooFewUsableParaphrases("it", 2, dict.fromkeys(range(30), 0))
    assert "edits.9: 0 of 2; and 20 more" in str(failure)


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ("1. One\n2) Two\n 3: Three", ["One", "Two", "Three"]),
        ("- One\n* Two\n• Three", ["One", "Two", "Three"]),
        ('"One in"\n“Two in”…', ["One in", "Two in"]),
        ("The 3 rivers of", ["The 3 rivers of"]),
        ("Ada was born in ...", ["Ada was born in"]),
    ],
)
def test_lines_of_an_answer_are_read_without_what_lists_put_before_them(
    answer: str, lines: list[str]
) -> None:
    assert lines_of(answer) == lines


def test_a_continuation_counts_up_to_the_end_of_its_line() -> None:
    assert first_line_of(" The town of Ada is\n\nSentence: The") == "The town of Ada is"
    assert first_line_of("  \n ") == ""


def test_what_a_model_is_asked_names_the_prompt_and_gives_no_answer_away() -> None:
    for asked in (instruction(EDIT, 3), few_shot_prompt(EDIT)):
        assert EDIT.full_prompt in asked
        assert "Paris" not in asked
        assert "London" not in asked


def test_answers_from_elsewhere_come_back_in_the_order_of_the_edits() -> None:
    released = threading.Event()

    def ask(asked: str, _tokens: int, _seed: int) -> str:
        edit = next(edit for edit in EDITS if edit.full_prompt in asked)
        if edit is EDITS[0]:
            assert released.wait(10)  # the first answer comes last
        else:
            released.set()
        return "\n".join(numbered(edit, 1, 2))

    source = WrittenElsewhere("elsewhere", ask, seed=0)
    assert paraphrase_edits(source, EDITS, 2, untold) == [tuple(numbered(edit, 1, 2)) for edit in EDITS]


def test_failure_elsewhere_ends_the_asking() -> None:
    asked: list[str] = []

    def ask(text: str, _tokens: int, _seed: int) -> str:
        asked.append(text)
        raise ConnectionError("away")

    many = [EDIT.model_copy(update={"prompt": f"{{}} number {index} is"}) for index in range(500)]
    with pytest.raises(ConnectionError, match="away"):
        paraphrase_edits(WrittenElsewhere("elsewhere", ask, seed=0), many, 1, untold)
    assert len(asked) < len(many)


class Recorder:
    """Stands for a text writer: notes what it is asked and answers with a numbered list, or with lines."""

    def __init__(self, *, rewrites: bool, follows_instructions: bool) -> None:
        self.rewrites, self.follows_instructions = rewrites, follows_instructions
        self.asked: list[str] = []
        self.seeds: list[int] = []

    def write(self, prompts: Sequence[str], choices: int, _tokens: int, **how: Any) -> list[list[str]]:
        self.asked += prompts
        self.seeds.append(how["seed"])
        subjects = [next(edit.subject for edit in EDITS if edit.subject in prompt) for prompt in prompts]
        if self.follows_instructions:
            return [[f"1. {subject}, one, is\n2. {subject}, two, is"] for subject in subjects]
        return [[f" {subject}, {number}, is\nAnd" for number in range(choices)] for subject in subjects]


@pytest.mark.parametrize(
    ("rewrites", "follows_instructions", "asked", "first"),
    [
        (True, False, "paraphrase: {}", "{}, 0, is"),
        (False, False, "In other words:", "{}, 0, is"),
        (False, True, "other beginnings", "{}, one, is"),
    ],
    ids=["sequence to sequence", "pre-trained", "for conversations"],
)
def test_model_is_asked_as_its_kind_is_used_to(
    rewrites: bool, follows_instructions: bool, asked: str, first: str
) -> None:
    writer = Recorder(rewrites=rewrites, follows_instructions=follows_instructions)
    found = paraphrase_edits(WrittenHere("it", writer, seed=0), EDITS, 2, untold)  # type: ignore[arg-type]
    assert all(
        asked.format(edit.full_prompt) in prompt for edit, prompt in zip(EDITS, writer.asked, strict=True)
    )
    assert [paraphrases[0] for paraphrases in found] == [first.format(edit.subject) for edit in EDITS]


def test_every_attempt_has_chance_of_its_own() -> None:
    writer = Recorder(rewrites=True, follows_instructions=False)
    source = WrittenHere("it", writer, seed=0)  # type: ignore[arg-type]
    for attempt in range(3):
        source.propose(EDITS, 1, attempt, untold)
    assert len(set(writer.seeds)) == 3
