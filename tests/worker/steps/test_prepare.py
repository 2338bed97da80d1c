"""Preparations: made once by a step of their own, shared, reused, and missed when they fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.worker.steps import edit, prepare
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.failures import InputDamaged, StepFailed
from services.worker.steps.order import work_on_audit
from services.worker.steps.preparation import Need, Workshop, prepared
from services.worker.steps.storing import fetched
from shared.editors import Hyperparameters
from shared.preparations import Preparation
from shared.requests import EditorChoice
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from shared.tables import Step
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import audit_of, claimed, report_of, run_steps, steps_of

WORDS = b"what the editor needs"
FT_L = {"name": "ft_l", "hyperparameters": {"layers": [1], "num_steps": 5, "norm_constraint": 0.01}}
EDITORS = [{**FT_L, "label": "needy", "paraphrases": [0, 1]}, FT_L]


@dataclass
class Stand:
    """A workshop that stores a few words for the editor `needy`, or fails; counts how often it was at it."""

    inputs: Mapping[str, Any] = field(default_factory=lambda: {"strength": 1})
    failure: Exception | None = None
    made: int = 0
    read: list[bytes] = field(default_factory=list)

    def need(
        self, _context: AuditContext, choice: EditorChoice, _paraphrases: int, _settled: Hyperparameters
    ) -> Need | None:
        return Need(Preparation.HYPERNETWORK, "words", self.inputs) if choice.key == "needy" else None

    def run(self, context: AuditContext, _step: Step) -> StepOutcome:
        self.made += 1
        if self.failure is not None:
            raise self.failure
        return StepOutcome(artifact=context.store.put(WORDS, ".txt"))


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Stands for the workshop of hypernetworks; edit steps read the words where they would load one."""
    workshop = Stand()

    def read_words(context: AuditContext, step: Step) -> None:
        made = prepared(context, step, Preparation.HYPERNETWORK)
        if made is not None:
            with fetched(context, made.id) as path:
                workshop.read.append(path.read_bytes())

    monkeypatch.setitem(prepare.WORKSHOPS, Preparation.HYPERNETWORK, Workshop(workshop.need, workshop.run))
    monkeypatch.setattr(edit, "stored_hypernetwork", read_words)
    return workshop


def test_edits_that_need_the_same_share_one_step_which_comes_first(tmp_path: Path, stand: Stand) -> None:
    context = claimed(tmp_path, parity_request(editors=EDITORS))
    work_on_audit(context)
    (preparation,) = steps_of(context, StepKind.PREPARE)
    first, second, other = steps_of(context, StepKind.EDIT)
    assert preparation.title == "prepare: hypernetwork of words"
    assert [preparation.id in step.needs for step in (first, second, other)] == [True, True, False]
    assert preparation.position < first.position
    assert stand.read == [WORDS, WORDS]
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    assert not report_of(context).problems


def test_edits_are_addressed_by_what_was_prepared_for_them(tmp_path: Path, stand: Stand) -> None:
    keys = []
    for strength in (1, 2):
        (folder := tmp_path / str(strength)).mkdir()
        stand.inputs = {"strength": strength}
        context = claimed(folder, parity_request(editors=EDITORS))
        run_steps(context, 1)  # the plan
        keys.append([step.key for step in steps_of(context, StepKind.EDIT)])
    assert [first != second for first, second in zip(*keys, strict=True)] == [True, True, False]


def test_preparation_is_reused_by_an_audit_of_other_edits(tmp_path: Path, stand: Stand) -> None:
    first = claimed(tmp_path, parity_request(editors=EDITORS))
    work_on_audit(first)
    second = claimed(tmp_path, parity_request(editors=EDITORS, edits=parity_request()["edits"][:2]))
    work_on_audit(second)
    assert stand.made == 1
    (made,), (reused,) = steps_of(first, StepKind.PREPARE), steps_of(second, StepKind.PREPARE)
    assert reused.source_step_id == made.id
    assert all(step.source_step_id == step.id for step in steps_of(second, StepKind.EDIT))


def test_failed_preparation_has_its_edits_skipped_and_the_rest_reported(tmp_path: Path, stand: Stand) -> None:
    stand.failure = StepFailed(Cause.MODEL, "it did not learn")
    context = claimed(tmp_path, parity_request(editors=EDITORS))
    work_on_audit(context)
    ended = {step.title: step.status for step in context.steps() if step.kind is StepKind.EDIT}
    assert ended == {
        "edit: needy, k=0": StepStatus.SKIPPED,
        "edit: needy, k=1": StepStatus.SKIPPED,
        "edit: ft_l, k=0": StepStatus.SUCCEEDED,
    }
    tunings = [step for step in steps_of(context, StepKind.TUNE) if step.inputs["editor"] == "needy"]
    assert {step.status for step in tunings} == {StepStatus.SKIPPED}
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    assert "it did not learn" in {problem.error for problem in report_of(context).problems}


def test_damaged_preparation_is_made_again_before_the_edit(tmp_path: Path, stand: Stand) -> None:
    context = claimed(tmp_path, parity_request(editors=EDITORS))
    run_steps(context, 3)  # the plan, the base, the preparation
    (preparation,) = steps_of(context, StepKind.PREPARE)
    assert preparation.artifact is not None
    (path,) = tmp_path.rglob(Path(preparation.artifact).name)
    path.write_bytes(WORDS[:-1])
    with pytest.raises(InputDamaged, match=preparation.artifact), fetched(context, preparation.id):
        pass
    work_on_audit(context)
    assert stand.made == 2
    assert stand.read == [WORDS, WORDS]
    assert audit_of(context).status is AuditStatus.SUCCEEDED
