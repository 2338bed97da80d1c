"""The last step reports what the others recorded, and needs no model."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from services.worker.steps import analyse
from services.worker.steps.context import AuditContext
from services.worker.steps.failures import StepFailed
from services.worker.steps.model_source import ModelKeeper
from services.worker.steps.order import RUN, next_step, run_step, work_on_audit
from shared.database import database_now, transaction
from shared.recipes import Objective
from shared.states import Cause, StepKind, StepStatus
from shared.tables import Step, StoredReport
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import audit_of, claimed, report_of, run_steps, steps_of

STEPS = 7  # the plan, the base, the edit, two tunings of the base and two of the edited model


class NoModel(ModelKeeper):
    """A worker that must not be asked for the model."""

    def model(self, *_: object) -> Any:
        raise AssertionError("the model was loaded")


@pytest.fixture
def measured(tmp_path: Path) -> AuditContext:
    """An audit of which only the analysis is left, on a worker that has no model."""
    first = claimed(tmp_path, parity_request(editors=parity_request()["editors"][1:]))
    run_steps(first, STEPS)
    return AuditContext(first.engine, first.settings, first.store, first.lease, models=NoModel())


def change_outcome(context: AuditContext, step: Step, **changes: Any) -> None:
    with transaction(context.engine) as session:
        session.execute(
            update(Step).where(col(Step.id) == step.id).values(outcome={**(step.outcome or {}), **changes})
        )


def test_report_is_made_without_the_model(measured: AuditContext) -> None:
    work_on_audit(measured)
    (base,) = steps_of(measured, StepKind.BASE)
    provenance = report_of(measured).provenance
    assert base.outcome is not None
    assert provenance.model_dump().items() >= base.outcome["environment"].items()
    assert provenance.model_revision == audit_of(measured).model_revision


def test_trials_tell_the_steps_of_both_arms_and_that_they_ended_apart(measured: AuditContext) -> None:
    free = next(
        step
        for step in steps_of(measured, StepKind.TUNE)
        if step.inputs["edit_step"] is None and not step.inputs["frozen_blocks"]
    )
    assert free.outcome is not None
    steps = free.outcome["steps"]
    change_outcome(measured, free, steps=steps - 1)
    work_on_audit(measured)
    report = report_of(measured)
    ends = {part.configuration.freeze: part.trials[0] for part in report.configurations}
    assert (ends["none"].steps, ends["none"].base_steps) == (steps, steps - 1)
    assert (ends["edited"].steps, ends["edited"].base_steps) == (steps, steps)
    assert sum("ended at different steps" in warning for warning in report.warnings) == 1


def test_held_out_losses_have_the_unit_of_what_the_recipe_learns(
    measured: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe,) = measured.request.recipes
    monkeypatch.setitem(analyse.LOSS_UNITS, recipe.objective, analyse.LOSS_UNITS[Objective.PREFERENCE])
    work_on_audit(measured)
    units = {trial.held_out_loss_unit for part in report_of(measured).configurations for trial in part.trials}
    assert units == {"nats per pair"}


def test_drift_is_reported_of_what_the_editor_wrote_and_is_nothing_where_that_was_frozen(
    measured: AuditContext,
) -> None:
    work_on_audit(measured)
    drift = {part.configuration.freeze: part.drift for part in report_of(measured).configurations}
    (free,), (frozen,) = drift["none"], drift["edited"]
    assert free.parameter == frozen.parameter == "transformer.h.1.mlp.c_proj.weight"
    assert free.edit_norm > 0
    assert free.tuning_norm > 0
    assert free.cosine is not None
    assert -1 <= free.cosine <= 1
    assert free.energy_inside is not None
    assert 0 <= free.energy_inside <= 1
    assert (frozen.edit_norm, frozen.tuning_norm, frozen.cosine) == (free.edit_norm, 0.0, None)


def test_edits_are_known_with_their_tokens_and_their_words_in_the_data(measured: AuditContext) -> None:
    (edit,), (plan,) = steps_of(measured, StepKind.EDIT), steps_of(measured, StepKind.PLAN)
    found = analyse.edit_features(measured.request.edits, [plan, edit])
    assert list(found) == [f"edit:{index}" for index in range(len(measured.request.edits))]
    assert all(known.target_tokens and known.mentions["english"].subject == 0 for known in found.values())


def test_provenance_is_that_of_the_worker_that_probed_the_base(measured: AuditContext) -> None:
    (base,) = steps_of(measured, StepKind.BASE)
    assert base.outcome is not None
    change_outcome(measured, base, environment={**base.outcome["environment"], "device": "NVIDIA H200"})
    work_on_audit(measured)
    report = report_of(measured)
    assert report.provenance.device == "NVIDIA H200"
    assert any("device (NVIDIA H200, cpu)" in warning for warning in report.warnings)


def test_steps_that_ran_alike_bring_no_warning(measured: AuditContext) -> None:
    work_on_audit(measured)
    assert not [warning for warning in report_of(measured).warnings if "environment" in warning]


def test_report_is_dated_by_the_database(measured: AuditContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyse, "database_now", lambda: database_now(3600.0))
    work_on_audit(measured)
    with transaction(measured.engine) as session:
        now = session.execute(select(database_now())).scalar_one()
    assert report_of(measured).created_at > now + timedelta(minutes=50)


def test_report_is_not_there_before_its_step_has_succeeded(measured: AuditContext) -> None:
    step = next_step(measured)
    assert step is not None
    outcome = RUN[StepKind.ANALYSE](measured, step)
    with transaction(measured.engine) as session:
        assert session.get(StoredReport, measured.lease.audit_id) is None
        assert outcome.publish is not None
        outcome.publish(session)
        assert session.get(StoredReport, measured.lease.audit_id) is not None


def test_base_that_failed_leaves_the_environment_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StepFailed(Cause.MODEL, "the model is broken")

    monkeypatch.setitem(RUN, StepKind.BASE, fail)
    context = claimed(tmp_path, parity_request())
    while (step := next_step(context)) is not None:
        run_step(context, step)
    assert {step.status for step in steps_of(context, StepKind.ANALYSE)} == {StepStatus.SUCCEEDED}
    provenance = report_of(context).provenance
    assert (provenance.device, provenance.packages) == ("unknown", {})
    assert provenance.model_revision == audit_of(context).model_revision
