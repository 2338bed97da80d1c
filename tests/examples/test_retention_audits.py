"""The retention study's audit files are what its code writes, valid, and of the size that its README says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from retention_study import AUDITS, HOME
from retention_study.audits import MAKERS, complement, edited_blocks, write
from retention_study.estimate import estimates, estimates_table
from retention_study.facts import controls, edits, names_measured, related_documents
from retention_study.parts import BLOCKS, FILES, MITIGATED, is_single, read_requests
from retention_study.training_data import choice_records, preference_records
from services.worker.almanac.facts import load_facts
from services.worker.almanac.instructions import example_instructions
from shared.recipes.freezing import Freeze
from shared.requests import AuditRequest

REQUESTS = read_requests()
MOST_MINUTES_OF_AN_AUDIT = 10
MOST_MINUTES_OF_ALL = 100
CORES = 2


def test_the_committed_files_are_what_is_written(tmp_path: Path) -> None:
    written = {path.name: path.read_bytes() for path in write(tmp_path)}
    assert written == {path.name: path.read_bytes() for path in AUDITS.iterdir()}


def test_every_file_is_made_and_read() -> None:
    assert set(FILES) == set(MAKERS)
    assert {part for part in REQUESTS if not is_single(part)} == {part for part in FILES if part in REQUESTS}


@pytest.mark.parametrize("part", REQUESTS)
def test_every_part_is_a_valid_request(part: str) -> None:
    request = AuditRequest.model_validate(REQUESTS[part])
    assert request.labels["part"] == part
    assert request.configurations()


def test_edits_one_by_one_are_those_of_the_batch_each_under_one_seed() -> None:
    singles = [request for part, request in REQUESTS.items() if is_single(part)]
    assert [edit for request in singles for edit in request["edits"]] == REQUESTS["objective-continued"][
        "edits"
    ]
    drawn = Counter((request["edits"][0]["relation"], *request["seeds"]) for request in singles)
    assert set(drawn.values()) == {1}
    assert len(drawn) == 16 * 3


def test_the_study_fits_its_time() -> None:
    found = estimates(REQUESTS)
    assert max(part.minutes / part.audits for part in found) <= MOST_MINUTES_OF_AN_AUDIT
    assert sum(part.minutes for part in found) / CORES <= MOST_MINUTES_OF_ALL


def test_the_readme_has_the_estimates() -> None:
    assert estimates_table(REQUESTS) in (HOME / "README.md").read_text()


def test_parts_share_the_tunings_that_they_have_in_common() -> None:
    of_freezing = {part.name: part for part in estimates(REQUESTS)}["freezing-memit"]
    # The base and the edited model with nothing frozen, under three seeds, are those of the objective.
    assert of_freezing.tunings - of_freezing.new == 6


@pytest.mark.parametrize("editor", MITIGATED)
def test_the_complement_is_every_block_that_the_editor_leaves_alone(editor: str) -> None:
    left = Freeze(complement(editor)).layers
    assert sorted((*left, *edited_blocks(editor))) == list(range(BLOCKS))


def test_edits_are_counterfactual_and_controls_true() -> None:
    true = {(fact.relation, fact.subject): fact.object for fact in load_facts()}
    assert all(
        true[str(edit.relation), edit.subject] == edit.target_true != edit.target_new for edit in edits()
    )
    assert all(true[str(fact.relation), str(fact.subject)] == fact.answer for fact in controls())


def test_every_edit_has_the_paraphrases_that_it_is_augmented_with() -> None:
    assert all(len(edit.paraphrases) == 7 for edit in edits())


def test_no_training_record_names_what_is_measured() -> None:
    records = [*choice_records(200), *preference_records(200), *example_instructions(200)]
    texts = [text for record in records for text in record.values()] + related_documents(200)
    assert [text for text in texts if names_measured(text)] == []


def test_related_documents_are_true() -> None:
    stated = {
        f"{phrasing.format(fact.subject)} {fact.object}."
        for fact in load_facts()
        for phrasing in fact.trained_phrasings
    }
    [document] = related_documents(1)
    assert sum(sentence in document for sentence in stated) == 3


def test_every_choice_offers_its_answer_once() -> None:
    for record in choice_records(200):
        assert record["prompt"].splitlines().count(record["completion"]) == 1


def test_choices_are_right() -> None:
    sums = [
        (*map(int, found.groups()), record["completion"])
        for record in choice_records(100)
        if (found := re.match(r"What is (\d+) plus (\d+)\?", record["prompt"]))
    ]
    assert sums
    assert all(answer.endswith(f". {first + second}") for first, second, answer in sums)


def test_preferences_prefer_the_answer_that_is_asked_for() -> None:
    right = {record["prompt"]: record["completion"] for record in example_instructions(400)}
    known = [record for record in preference_records(300) if record["prompt"] in right]
    assert known
    assert all(record["chosen"] == right[record["prompt"]] != record["rejected"] for record in known)
