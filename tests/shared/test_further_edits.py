"""Which edits the stressor `further_edits` makes, and what they are meant to change."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest

from shared import further_edits as module
from shared.edits import ControlFact, Edit, normal
from shared.further_edits import NoFurtherEdits, changed_controls, contradictions, further_edits, superseded
from shared.stressors import FurtherEdits

Which = Literal["random", "same_subject", "conflicting"]
MANY = 2_000


def edit(subject: str, target: str, prompt: str = "{} lives in", **changes: Any) -> Edit:
    return Edit(prompt=prompt, subject=subject, target_new=target, target_true="Oslo", **changes)


FIRST = [edit("Ada", "Rome"), edit("Kurt", "Paris"), edit("Emmy", "Rome"), edit("Paul", "chess", "{} plays")]
RECORDS = [
    edit("Alan", "Bonn"),
    edit("Ada", "tennis", "{} plays"),
    edit("Grace", "Lima"),
    edit("Edith", "Bern"),
]


def made(which: Which, count: int | None = None, seed: int = 0, **changes: Any) -> list[str]:
    stressor = FurtherEdits(which=which, count=count, **changes)
    return [f"{one.full_prompt} {one.target_new}" for one in further_edits(stressor, FIRST, RECORDS, seed)]


def test_random_ones_are_of_other_subjects_and_drawn_by_the_seed_in_their_order() -> None:
    everyone = ["Alan lives in Bonn", "Grace lives in Lima", "Edith lives in Bern"]
    assert made("random") == everyone
    draws = {tuple(made("random", 2, seed)) for seed in range(20)}
    assert draws == {(everyone[0], everyone[1]), (everyone[0], everyone[2]), (everyone[1], everyone[2])}
    assert made("random", 2, 7) == made("random", 2, 7)


def test_same_subject_ones_ask_something_else_of_an_edited_subject() -> None:
    assert made("same_subject") == ["Ada plays tennis"]


def test_conflicting_ones_take_the_next_new_target_of_their_prompt_or_relation() -> None:
    # Paul's prompt has no other edit, and so no other target.
    assert made("conflicting") == ["Ada lives in Paris", "Kurt lives in Rome", "Emmy lives in Paris"]
    assert made("conflicting", 1) == ["Ada lives in Paris"]
    related = [
        edit("Ada", "Rome", relation="home"),
        edit("Kurt", "Paris", "The home of {} is", relation="home"),
    ]
    assert [one.target_new for one in contradictions(related)] == ["Paris", "Rome"]


def test_given_ones_go_before_those_of_the_request() -> None:
    assert made("random", edits=(edit("Max", "Kiel"),)) == ["Max lives in Kiel"]


@pytest.mark.parametrize(
    ("which", "count", "given", "field"),
    [
        ("random", 4, (), "count"),
        ("same_subject", 2, (), "count"),
        ("random", None, (edit("Ada", "Bonn"),), "edits.0"),
        ("same_subject", None, (edit("Ada", "Bonn"),), "edits.0"),
        ("conflicting", None, (edit("Ada", "Bonn"), edit("Kurt", "Paris")), "edits.1"),
    ],
)
def test_what_is_not_there_or_of_another_kind_is_refused(
    which: Which, count: int | None, given: tuple[Edit, ...], field: str
) -> None:
    with pytest.raises(NoFurtherEdits) as refusal:
        made(which, count, edits=given)
    assert refusal.value.field == field


def test_only_edits_whose_prompt_gets_another_target_are_superseded() -> None:
    further = [edit("Kurt", "Bonn"), edit("Emmy", "rome"), edit("Alan", "Bonn")]
    assert superseded(further, FIRST) == [1]


def test_controls_that_mention_a_subject_as_whole_words_may_be_changed() -> None:
    further = [edit("Paul", "Bonn"), edit("New York", "Bonn")]
    prompts = [
        "Paul's mother is",
        "Paula's mother is",
        "The mayor of new  york, is",
        "Newark is",
        "{} is old",
    ]
    controls = [
        ControlFact(prompt=prompt, answer="x", subject="Paul" if "{}" in prompt else None)
        for prompt in prompts
    ]
    assert changed_controls(further, controls) == [0, 2, 4]


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were normalised; far more than there are to compare fail at once, without the wait."""
    texts: list[str] = []

    def counting(text: str) -> str:
        texts.append(text)
        assert len(texts) < 10 * MANY
        return normal(text)

    monkeypatch.setattr(module, "normal", counting)
    return texts


@pytest.mark.parametrize("which", ["random", "same_subject"])
def test_thousands_are_held_against_thousands_with_each_text_normalised_once(
    which: Which, normalised: list[str]
) -> None:
    first = [edit(f"A{index}", "Rome") for index in range(MANY)]
    records = [edit(f"{'A' if index % 2 else 'B'}{index}", "Rome", "{} plays") for index in range(MANY)]
    assert len(further_edits(FurtherEdits(which=which), first, records, 0)) == MANY // 2
    assert len(normalised) <= 5 * MANY


def test_thousands_of_one_prompt_find_their_contradictions_in_one_pass(normalised: list[str]) -> None:
    targets = ["Paris", *["Rome"] * (MANY - 2), "rome"]
    found = contradictions([edit(f"A{index}", target) for index, target in enumerate(targets)])
    assert [one.target_new for one in found] == ["Rome", *["Paris"] * (MANY - 1)]
    assert len(normalised) <= 3 * MANY


def test_each_control_is_read_once_however_many_edits_are_made(normalised: list[str]) -> None:
    further = [edit(f"Subject {index}", "Rome") for index in range(MANY)]
    controls = [ControlFact(prompt=f"Subject {index} is", answer="x") for index in range(MANY, 0, -1)]
    assert changed_controls(further, controls) == list(range(1, MANY))
    assert len(normalised) <= 2 * MANY


def test_contradictions_are_those_found_by_looking_at_every_other_edit() -> None:
    draw = random.Random(3)  # noqa: S311 (what is drawn is no secret)
    towns = ["Rome", "rome", "Paris", "Bonn", "Lima"]
    for _ in range(50):
        edits = [
            edit(f"A{index}", draw.choice(towns), draw.choice(["{} a", "{} b"])).model_copy(
                update={"target_true": draw.choice(towns)}
            )
            for index in range(12)
        ]
        expected = []
        for index, one in enumerate(edits):
            taken = {normal(one.target_new), normal(one.target_true)}
            others = [other for other in edits[index + 1 :] + edits[:index] if other.prompt == one.prompt]
            free = [other.target_new for other in others if normal(other.target_new) not in taken]
            expected += [(one.subject, target) for target in free[:1]]
        assert [(one.subject, one.target_new) for one in contradictions(edits)] == expected
