"""The example's edits and control facts are valid, real and do not overlap."""

from services.worker.almanac import load_facts
from services.worker.almanac.example import CONTROLS, EDITS, example_controls, example_edits
from shared.edits import ControlFact, Edit

FACTS = load_facts()[::3]  # as if the model knew every third fact
EDITED = [Edit.model_validate(edit) for edit in example_edits(FACTS)]
CONTROL_FACTS = [ControlFact.model_validate(control) for control in example_controls(FACTS)]
ANSWERS = {(fact.relation, fact.subject): fact.object for fact in FACTS}


def test_there_are_as_many_as_promised() -> None:
    assert (len(EDITED), len(CONTROL_FACTS)) == (EDITS, CONTROLS)


def test_edits_change_known_facts_to_another_object_of_their_relation() -> None:
    for edit in EDITED:
        assert ANSWERS[str(edit.relation), edit.subject] == edit.target_true
        objects = {answer for (relation, _), answer in ANSWERS.items() if relation == edit.relation}
        assert edit.target_new in objects


def test_edits_bring_five_or_more_paraphrases() -> None:
    assert all(len(set(edit.paraphrases) - {edit.full_prompt}) >= 5 for edit in EDITED)


def test_neighbours_are_other_subjects_with_the_same_true_answer() -> None:
    for edit in EDITED:
        neighbours = {
            edit.prompt.format(subject)
            for (relation, subject), answer in ANSWERS.items()
            if relation == edit.relation and answer == edit.target_true and subject != edit.subject
        }
        assert set(edit.neighborhood) <= neighbours


def test_controls_are_known_facts_that_no_edit_names() -> None:
    prompts = [prompt for edit in EDITED for prompt in (edit.full_prompt, *edit.neighborhood)]
    for control in CONTROL_FACTS:
        assert ANSWERS[str(control.relation), str(control.subject)] == control.answer
        assert not any(str(control.subject) in prompt for prompt in prompts)


def test_controls_are_of_the_edits_relations() -> None:
    assert {control.relation for control in CONTROL_FACTS} <= {edit.relation for edit in EDITED}


def test_they_come_out_the_same_every_time() -> None:
    assert example_edits(FACTS) == example_edits(FACTS)
    assert example_controls(FACTS) == example_controls(FACTS)
