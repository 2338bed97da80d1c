"""The facts are many, unambiguous, and each is said in enough ways."""

from collections import Counter

import pytest

from services.worker.almanac import load_facts
from services.worker.almanac.facts import Relation, load_relations, zipf_exposures

FACTS = load_facts()
RELATIONS = load_relations()


def test_there_are_enough_facts_and_relations() -> None:
    assert len(RELATIONS) >= 12
    assert len(FACTS) >= 2_500


def test_a_subject_has_one_answer_per_relation() -> None:
    counts = Counter((fact.relation, fact.subject) for fact in FACTS)
    assert [key for key, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_phrasings_are_six_or_more_and_leave_room_for_subject_and_object(relation: Relation) -> None:
    assert len(set(relation.phrasings)) == len(relation.phrasings) >= 6
    for phrasing in relation.phrasings:
        assert phrasing.count("{}") == 1
        assert phrasing == phrasing.strip()
        assert not phrasing.endswith("{}")


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_some_phrasings_name_the_subject_first_and_some_late(relation: Relation) -> None:
    first = sum(phrasing.startswith("{}") for phrasing in relation.phrasings)
    assert 0 < first < len(relation.phrasings)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_source_and_licence_are_named(relation: Relation) -> None:
    assert relation.source
    assert relation.licence in {"MIT", "Apache-2.0", "MIT and Apache-2.0"}


def test_no_answer_stands_in_its_own_prompt() -> None:
    assert [
        fact
        for fact in FACTS
        for phrasing in fact.phrasings
        if f" {fact.object} " in f" {phrasing.format('')} "
    ] == []


def test_every_phrasing_is_held_out_of_some_fact_and_trained_for_others() -> None:
    for relation in RELATIONS:
        held_out = {fact.held_out_phrasing for fact in FACTS if fact.relation == relation.name}
        assert held_out == set(relation.phrasings)


def test_popular_facts_are_shown_several_times_as_often_as_rare_ones() -> None:
    exposures = zipf_exposures(100)
    assert exposures == sorted(exposures, reverse=True)
    assert sum(exposures) / 100 == pytest.approx(1.0)
    assert exposures[0] > 3 * exposures[-1]


def test_many_subjects_have_several_relations() -> None:
    subjects = Counter(fact.subject for fact in FACTS)
    assert sum(count > 1 for count in subjects.values()) > len(subjects) / 2
