"""Interchange swaps the state it names, and nothing else."""

import itertools
from random import Random

from services.worker.almanac.recall import exactly_right, trained_questions
from services.worker.almanac.tracing import (
    Interchange,
    draw_interchanges,
    interchange_shares,
    subject_last_position,
)
from tests.worker.almanac.tiny import PHRASINGS, facts, learned


def capitals_that_it_knows() -> list[Interchange]:
    """Pairs of capitals in a phrasing in which the tiny model answers both right, and differently."""
    pairs = []
    capitals = [fact for fact in facts() if fact.relation == "capital"]
    first = {fact: learned().tokenizer.encode(" " + fact.object)[0] for fact in capitals}
    for phrasing in PHRASINGS:
        questions = [(phrasing.format(fact.subject), fact.object) for fact in capitals]
        hits = exactly_right(learned().model, learned().tokenizer, questions)
        known = [fact for fact, hit in zip(capitals, hits, strict=True) if hit]
        pairs += [
            Interchange(phrasing, fact.subject, other.subject, other.object)
            for fact, other in itertools.permutations(known, 2)
            if first[fact] != first[other]
        ]
    assert pairs
    return pairs


def test_a_trained_model_knows_its_facts() -> None:
    hits = exactly_right(learned().model, learned().tokenizer, trained_questions(facts()))
    assert sum(hits) >= 0.8 * len(hits)


def test_the_final_state_at_the_end_of_the_prompt_decides_the_answer() -> None:
    assert interchange_shares(learned(), capitals_that_it_knows(), at_subject=False)[-1] == 1.0


def test_the_final_state_at_the_subject_decides_nothing() -> None:
    assert interchange_shares(learned(), capitals_that_it_knows(), at_subject=True)[-1] == 0.0


def test_hooks_are_gone_afterwards() -> None:
    interchange_shares(learned(), capitals_that_it_knows(), at_subject=True)
    assert not any(module._forward_hooks for module in learned().model.modules())


def test_the_subjects_last_token_is_found_whatever_surrounds_it() -> None:
    for phrasing in PHRASINGS:
        for fact in facts():
            ids = learned().tokenizer.encode(phrasing.format(fact.subject))
            end = subject_last_position(learned().tokenizer, phrasing, fact.subject) + 1
            assert str(learned().tokenizer.decode(ids[:end])).endswith(fact.subject)


def test_drawn_pairs_share_a_relation_and_differ_in_the_first_answer_token() -> None:
    answers = {(fact.relation, fact.subject): fact.object for fact in facts()}
    relation_of = {phrasing: fact.relation for fact in facts() for phrasing in fact.phrasings}
    for pair in draw_interchanges(learned().tokenizer, facts(), 30, Random(0)):  # noqa: S311
        relation = relation_of[pair.phrasing]
        assert answers[relation, pair.other_subject] == pair.other_answer
        mine = learned().tokenizer.encode(" " + answers[relation, pair.subject])
        assert mine[0] != learned().tokenizer.encode(" " + pair.other_answer)[0]
