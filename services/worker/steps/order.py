"""Takes the ready steps of an audit one after another, and ends the audit when none is left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col

from services.worker.steps import analyse, base, edit, plan, tune
from services.worker.steps.content_keys import code_version, content_key
from services.worker.steps.context import AuditContext, StepOutcome, insert_scores
from services.worker.steps.failures import StepFailed, explain
from shared.artifacts import Artifact
from shared.database import database_now
from shared.events import append_event
from shared.leases import LeaseLost, end_attempt, move_audit
from shared.model_files import HubUnavailable
from shared.states import AuditStatus, StepKind, StepStatus, Verdict
from shared.tables import Audit, Step

log = logging.getLogger(__name__)

RUN: dict[StepKind, Callable[[AuditContext, Step], StepOutcome]] = {
    StepKind.PLAN: plan.run,
    StepKind.BASE: base.run,
    StepKind.EDIT: edit.run,
    StepKind.TUNE: tune.run,
    StepKind.ANALYSE: analyse.run,
}
REUSABLE = frozenset({StepKind.BASE, StepKind.EDIT, StepKind.TUNE})


def run_ready_steps(context: AuditContext) -> None:
    """Run every step whose needs are met until the audit has ended.

    Raises:
        LeaseLost: somebody else has the audit now.
    """
    while (step := next_ready_step(context)) is not None:
        run_step(context, step)
    end_audit(context)


def next_ready_step(context: AuditContext) -> Step | None:
    """The first pending step whose needs are met; steps that can no longer run are marked skipped."""
    steps = {step.id: step for step in context.steps()}
    for step in steps.values():
        if step.status is not StepStatus.PENDING:
            continue
        needs = [steps[needed].status for needed in step.needs]
        if step.kind is StepKind.ANALYSE:  # reports on whatever there is
            if all(status.is_terminal for status in needs):
                return step
        elif any(status.is_terminal and status is not StepStatus.SUCCEEDED for status in needs):
            skip(context, step)
            step.status = StepStatus.SKIPPED
        elif all(status is StepStatus.SUCCEEDED for status in needs):
            return step
    return None


def run_step(context: AuditContext, step: Step) -> None:
    """Run one step, or take over the result of an identical one; record how it ended.

    Raises:
        LeaseLost: see `run_ready_steps`.
        OperationalError, HubUnavailable: database or hub was away; the step can be taken up again.
    """
    if step.kind in REUSABLE:
        key_by_running_code(context, step)
        if reuse_identical(context, step):
            return
    start(context, step)
    try:
        outcome = RUN[step.kind](context, step)
    except (LeaseLost, OperationalError, HubUnavailable):
        raise
    except Exception as error:  # whatever a step raises is that step's failure, not the audit's
        log.exception("step %s failed", step.title)
        fail(context, step, explain(error))
    else:
        succeed(context, step, outcome)


def start(context: AuditContext, step: Step) -> None:
    """Mark a step as running under this attempt's lease."""
    with context.fenced() as session:
        _set(
            session,
            step,
            status=StepStatus.RUNNING,
            lease_token=context.lease.token,
            started_at=database_now(),
            progress=0.0,
        )
        append_event(session, step.audit_id, "step.started", step=step.title)


def succeed(context: AuditContext, step: Step, outcome: StepOutcome) -> None:
    """Publish a step's result: scores, record and status in one fenced transaction."""
    with context.fenced() as session:
        insert_scores(session, step.id, outcome.arms)
        _set(
            session,
            step,
            status=StepStatus.SUCCEEDED,
            progress=1.0,
            finished_at=database_now(),
            source_step_id=step.id,
            artifact=outcome.artifact.name if outcome.artifact else None,
            artifact_sha256=outcome.artifact.sha256 if outcome.artifact else None,
            outcome=outcome.record,
        )
        append_event(session, step.audit_id, "step.succeeded", step=step.title)


def fail(context: AuditContext, step: Step, failure: StepFailed) -> None:
    """Record why a step cannot give its result."""
    with context.fenced() as session:
        _set(
            session,
            step,
            status=StepStatus.FAILED,
            finished_at=database_now(),
            cause=failure.cause,
            error=failure.reason,
        )
        append_event(session, step.audit_id, "step.failed", step=step.title, error=failure.reason)


def skip(context: AuditContext, step: Step) -> None:
    """Mark a step that needs one that failed."""
    with context.fenced() as session:
        _set(session, step, status=StepStatus.SKIPPED, error="a step it needs did not succeed")
        append_event(session, step.audit_id, "step.skipped", step=step.title)


def key_by_running_code(context: AuditContext, step: Step) -> None:
    """Give a step that other code planned (before an upgrade) a key that names the code that runs it."""
    plan_record = context.steps()[0].outcome or {}
    if plan_record.get("code_version") != code_version():
        step.key = content_key(planned=step.key)
        with context.fenced() as session:
            _set(session, step, key=step.key)


def reuse_identical(context: AuditContext, step: Step) -> bool:
    """Let the step stand for an identical one that succeeded before, if its artifact is intact."""
    with context.fenced() as session:
        earlier = session.execute(
            select(Step)
            .where(col(Step.key) == step.key, col(Step.status) == StepStatus.SUCCEEDED)
            .order_by(col(Step.finished_at))
            .limit(1)
        ).scalar_one_or_none()
    if earlier is None or not _intact(context, earlier):
        return False
    with context.fenced() as session:
        _set(
            session,
            step,
            status=StepStatus.SUCCEEDED,
            progress=1.0,
            started_at=database_now(),
            finished_at=database_now(),
            source_step_id=earlier.source_step_id,
            artifact=earlier.artifact,
            artifact_sha256=earlier.artifact_sha256,
            outcome=earlier.outcome,
        )
        append_event(session, step.audit_id, "step.reused", step=step.title, of=earlier.source_step_id)
    return True


def end_audit(context: AuditContext) -> None:
    """Bring the audit to its end: a report was made, or the step that everything needs failed."""
    steps = context.steps()
    broken = next((step for step in steps if step.status is StepStatus.FAILED), None)
    tuned = [step for step in steps if step.kind is StepKind.TUNE and step.inputs["edit_step"] is not None]
    report = next((step.outcome for step in steps if step.kind is StepKind.ANALYSE and step.outcome), None)
    measured = any(step.status is StepStatus.SUCCEEDED for step in tuned)
    with context.fenced() as session:
        audit = session.get_one(Audit, context.lease.audit_id, populate_existing=True)
        if audit.status is not AuditStatus.RUNNING:
            raise LeaseLost(f"audit {audit.id} is {audit.status}; the supervisor ends it")
        if report is not None:
            session.execute(
                update(Audit).where(col(Audit.id) == audit.id).values(verdict=Verdict(report["verdict"]))
            )
        if report is not None and measured:
            move_audit(session, audit.id, AuditStatus.SUCCEEDED)
        else:
            error = f"{broken.title}: {broken.error}" if broken else "no trial succeeded"
            cause = broken.cause if broken else None
            move_audit(session, audit.id, AuditStatus.FAILED, cause=cause, error=error)
        end_attempt(session, context.lease)


def _intact(context: AuditContext, step: Step) -> bool:
    if step.artifact is None or step.artifact_sha256 is None:
        return True
    try:
        context.store.get(Artifact(step.artifact, step.artifact_sha256))
    except Exception as error:  # a store fails in many ways; none may end the child between two steps
        log.warning("%s: %s; %s is computed again", type(error).__name__, error, step.title)
        return False
    return True


def _set(session: Session, step: Step, **values: Any) -> None:
    session.execute(
        update(Step)
        .where(col(Step.id) == step.id)
        .values(values)
        .execution_options(synchronize_session=False)
    )
