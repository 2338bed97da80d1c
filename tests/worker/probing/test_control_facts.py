"""Control facts are known to the base model, untouched by the edits, and mixed like them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from services.worker.probing.control_facts import choose_controls, control_candidates, share_out
from shared.edits import ControlFact, Edit
from shared.measurement import ProbeScore


def edit(subject: str, relation: str | None = "capital", neighborhood: tuple[str, ...] = ()) -> Edit:
    return Edit(
        prompt="The capital of {} is",
        subject=subject,
        target_new="Rome",
        target_true="Paris",
        paraphrases=(f"{subject} is governed from",),
        neighborhood=neighborhood,
        relation=relation,
    )


def fact(prompt: str, relation: str | None = None, subject: str | None = None) -> ControlFact:
    return ControlFact(prompt=prompt, subject=subject, answer="Paris", relation=relation)


def known(exact: bool) -> ProbeScore:
    return ProbeScore(
        first_token=True,
        exact=exact,
        preference=None,
        log_prob_answer=-0.5,
        log_prob_alternative=None,
        alternative_exact=None,
        predicted_token=" Paris",  # noqa: S106 (not a password)
    )


def test_neighbourhood_prompts_become_facts_with_the_true_answer() -> None:
    candidates = control_candidates([edit("France", neighborhood=("The Eiffel Tower stands in",))])
    assert [(found.prompt, found.answer, found.alternative, found.relation) for found in candidates] == [
        ("The Eiffel Tower stands in", "Paris", "Rome", "capital")
    ]


def test_facts_of_the_request_take_the_place_of_neighbourhood_prompts() -> None:
    edits = [edit("France", neighborhood=("The Eiffel Tower stands in",))]
    assert control_candidates(edits, [fact("Oslo lies in")]) == [fact("Oslo lies in")]


def test_unedited_records_keep_their_true_answers() -> None:
    candidate = control_candidates([edit("France")], unedited=[edit("Norway")])[0]
    assert (candidate.full_prompt, candidate.answer) == ("The capital of Norway is", "Paris")


@pytest.mark.parametrize(
    "touched",
    [
        fact("The capital of France is"),
        fact("the  CAPITAL of france is"),
        fact("France is governed from"),
        fact("{} borders on", subject="France"),
        fact("The largest river of France is"),
        fact("The president of France's ally is"),
    ],
    ids=[
        "its prompt",
        "its prompt, spelt otherwise",
        "a paraphrase",
        "its subject",
        "a mention",
        "possessive",
    ],
)
def test_a_fact_that_an_edit_touches_is_no_control(touched: ControlFact) -> None:
    assert control_candidates([edit("France")], [touched]) == []


def test_a_word_that_only_contains_a_subject_is_no_mention() -> None:
    assert control_candidates([edit("Niger")], [fact("The capital of Nigeria is")]) != []


def test_each_prompt_is_a_candidate_once() -> None:
    facts = [fact("Oslo lies in"), fact("oslo lies  in"), fact("Rome lies in")]
    assert control_candidates([edit("France")], facts) == [facts[0], facts[2]]


def test_only_facts_that_the_base_model_answers_right_are_chosen() -> None:
    candidates = [fact("a"), fact("b"), fact("c")]
    scores = [known(True), known(False), known(True)]
    assert choose_controls(candidates, scores, [edit("France")], 10) == [candidates[0], candidates[2]]


def test_controls_are_mixed_over_relations_like_the_edits() -> None:
    candidates = [fact(f"{relation} {index}", relation) for relation in "xyz" for index in range(50)]
    edits = [edit(f"s{index}", "x" if index % 4 else "y") for index in range(20)]
    chosen = choose_controls(candidates, [known(True)] * 150, edits, 40)
    assert Counter(found.relation for found in chosen) == {"x": 30, "y": 10}


def test_places_that_a_relation_cannot_fill_go_to_the_others() -> None:
    assert share_out(20, {"x": 3, "y": 50, "z": 50}, {"x": 5, "y": 5}) == {"x": 3, "y": 17, "z": 0}


def test_relations_without_edits_get_what_is_left() -> None:
    assert share_out(20, {"x": 3, "y": 4, "z": 50}, {"x": 5, "y": 5}) == {"x": 3, "y": 4, "z": 13}


def test_the_choice_does_not_depend_on_the_order_of_the_candidates() -> None:
    candidates = [fact(f"{relation} {index}", relation) for relation in "xy" for index in range(30)]
    shuffled = random.Random(1).sample(candidates, len(candidates))  # noqa: S311 (not for secrets)
    scores = [known(True)] * 60
    edits = [edit("France", "x"), edit("Spain", "y")]
    chosen, again = (choose_controls(given, scores, edits, 12) for given in (candidates, shuffled))
    assert {found.prompt for found in chosen} == {found.prompt for found in again}
