"""Audits of MEND: its hypernetwork is trained by a step of its own, on nothing that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.worker.editing.hypernetwork import load_hypernetwork
from services.worker.steps.context import AuditContext
from services.worker.steps.hypernetworks import counterfactuals, training_edits
from services.worker.steps.storing import fetched
from shared.editors import MendHyperparameters
from shared.edits import ControlFact, Edit
from shared.requests import Controls
from shared.states import StepKind, StepStatus
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import claimed, run_steps, steps_of

QUICK = {"training_steps": 2, "training_edits": 20, "edits_at_once": 4, "rank": 4, "layers": [2, 3]}


def mend_request(hyperparameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return parity_request(editors=[{"name": "mend", "hyperparameters": hyperparameters}], **changes)


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    """An audit of MEND that has come as far as its edit."""
    context = claimed(tmp_path_factory.mktemp("audit"), mend_request(QUICK))
    run_steps(context, 4)  # the plan, the base, the preparation, the edit
    return context


def test_network_is_trained_first_and_the_edit_made_with_it(edited: AuditContext) -> None:
    (preparation,) = steps_of(edited, StepKind.PREPARE)
    (edit,) = steps_of(edited, StepKind.EDIT)
    assert edit.status is StepStatus.SUCCEEDED
    assert preparation.id in edit.needs
    assert preparation.outcome is not None
    assert preparation.outcome["training_edits"] == 20
    with fetched(edited, preparation.id) as path:
        weights = load_hypernetwork(path).weights
    assert [weight.path for weight in weights] == [
        f"transformer.h.{layer}.mlp.{name}" for layer in (2, 3) for name in ("c_fc", "c_proj")
    ]


@pytest.mark.parametrize(("at_once", "taught"), [(None, [4, 8]), (3, [3])])
def test_network_is_trained_for_as_many_edits_as_a_step_makes(
    tmp_path: Path, at_once: int | None, taught: list[int]
) -> None:
    settings = {**QUICK, "edits_at_once": at_once}
    editor = {"name": "mend", "hyperparameters": settings, "paraphrases": [0, 1]}
    context = claimed(tmp_path, parity_request(editors=[editor]))
    run_steps(context, 1)  # the plan
    assert [step.inputs["edits_at_once"] for step in steps_of(context, StepKind.PREPARE)] == taught


def test_almanac_trains_on_no_subject_of_an_edit_or_a_control() -> None:
    edits, others = counterfactuals(seed=1)[:5], counterfactuals(seed=1)[5:10]
    facts = [ControlFact(prompt=o.prompt, subject=o.subject, answer=o.target_true) for o in others]
    found = training_edits(MendHyperparameters(), edits, Controls(facts=tuple(facts)))
    measured = {edit.subject for edit in (*edits, *others)}
    assert len(found) == len(counterfactuals(seed=0)) - len(measured)
    assert measured.isdisjoint(edit.subject for edit in found)


def test_unedited_records_are_trained_on_when_they_are_not_controls() -> None:
    edits = [Edit.model_validate(edit) for edit in parity_request()["edits"]]
    fact = ControlFact(prompt="{} is in", subject="Nowhere", answer="Utopia")
    settings = MendHyperparameters(training="unedited")
    controls = Controls(facts=(fact,), unedited=tuple(edits[1:]))
    assert training_edits(settings, edits[:1], controls) == edits[1:]
    assert training_edits(settings, edits[:1], Controls(unedited=tuple(edits[1:]))) == []
