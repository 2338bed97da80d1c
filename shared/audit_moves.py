"""How an audit moves from state to state. Each move locks the audit's row, and its history tells it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row, func, select, update
from sqlmodel import Session, col

from shared.database import database_now
from shared.events import append_event
from shared.outbox import request_wake_up
from shared.states import AuditStatus, Cause, StepKind, StepStatus, Verdict, check_transition
from shared.tables import Attempt, Audit, Step


def lock_audit(session: Session, audit_id: str) -> Audit:
    """The audit as it is, locked for the rest of the transaction: who changes its steps comes here first."""
    return session.get_one(Audit, audit_id, with_for_update=True, populate_existing=True)


def move_audit(
    session: Session,
    audit_id: str,
    wanted: AuditStatus,
    *,
    cause: Cause | None = None,
    error: str | None = None,
) -> None:
    """Move an audit to `wanted` and say so in its history.

    Raises:
        IllegalTransition: its present state does not lead there.
    """
    audit = lock_audit(session, audit_id)
    check_transition(audit.status, wanted)
    values: dict[str, object] = {"status": wanted, "cause": cause, "error": error}
    if wanted.is_terminal:
        values["finished_at"] = database_now()
    if wanted is AuditStatus.CANCELLING:
        values["cancel_requested_at"] = database_now()
    if wanted is AuditStatus.RUNNING and audit.started_at is None:
        values["started_at"] = database_now()
        values["expires_at"] = None if audit.run_seconds is None else database_now(audit.run_seconds)
    session.execute(
        update(Audit)
        .where(col(Audit.id) == audit_id)
        .values(values)
        .execution_options(synchronize_session=False)
    )
    told = {"cause": cause, "error": error}
    append_event(
        session, audit_id, f"audit.{wanted}", **{name: value for name, value in told.items() if value}
    )
    session.expire(audit)


def request_cancel(session: Session, audit_id: str) -> AuditStatus:
    """Cancel at once what nobody works on; ask the workers to stop what is running.

    Raises:
        IllegalTransition: the audit has already ended.
    """
    audit = lock_audit(session, audit_id)
    if audit.status is AuditStatus.CANCELLING:
        return audit.status
    queued = audit.status is AuditStatus.QUEUED
    wanted = AuditStatus.CANCELLED if queued else AuditStatus.CANCELLING
    move_audit(session, audit_id, wanted, cause=Cause.USER)
    if queued:
        cancel_open_steps(session, audit_id)
    return wanted


def cancel_open_steps(session: Session, audit_id: str) -> None:
    """Mark every step that has not ended as cancelled."""
    session.execute(
        update(Step)
        .where(col(Step.audit_id) == audit_id, col(Step.status).in_([StepStatus.PENDING, StepStatus.RUNNING]))
        .values(status=StepStatus.CANCELLED, ready_at=None, finished_at=database_now())
        .execution_options(synchronize_session=False)
    )


def go_on_without(session: Session, audit_id: str) -> None:
    """What becomes of an audit when one of its attempts has ended: others go on, it waits, or it ends."""
    audit = lock_audit(session, audit_id)
    if audit.status.is_terminal:
        return
    at_work: int = session.execute(
        select(func.count())
        .select_from(Attempt)
        .where(col(Attempt.audit_id) == audit_id, col(Attempt.ended_at).is_(None))
    ).scalar_one()
    if audit.status is AuditStatus.CANCELLING:
        if at_work == 0:
            cancel_open_steps(session, audit_id)
            move_audit(session, audit_id, AuditStatus.CANCELLED, cause=Cause.USER)
        return
    steps = _steps(session, audit_id)
    work_is_left = not all(step.status.is_terminal for step in steps)
    if at_work == 0 and not work_is_left:  # the last one out ends it: nobody may write to an ended audit
        conclude(session, audit_id, steps)
        return
    if at_work == 0:
        move_audit(session, audit_id, AuditStatus.QUEUED)
    if work_is_left:
        request_wake_up(session, audit_id)


# What a verdict is about: an audit in which none of these succeeded measured nothing.
AFTER_EDITING = frozenset({StepKind.TUNE, StepKind.STRESS, StepKind.PROBE})


def conclude(session: Session, audit_id: str, steps: Sequence[Row[tuple[object, ...]]]) -> None:
    """End an audit whose steps have all ended: a report was made, or a step that everything needs failed."""
    report = next((step.outcome for step in steps if step.kind is StepKind.ANALYSE and step.outcome), None)
    measured = any(
        step.kind in AFTER_EDITING
        and step.status is StepStatus.SUCCEEDED
        and step.inputs["edit_step"] is not None
        for step in steps
    )
    if report is not None:
        session.execute(
            update(Audit).where(col(Audit.id) == audit_id).values(verdict=Verdict(report["verdict"]))
        )
    if report is not None and measured:
        move_audit(session, audit_id, AuditStatus.SUCCEEDED)
        return
    broken = next((step for step in steps if step.status is StepStatus.FAILED), None)
    error = f"{broken.title}: {broken.error}" if broken else "no trial succeeded"
    move_audit(session, audit_id, AuditStatus.FAILED, cause=broken.cause if broken else None, error=error)


def _steps(session: Session, audit_id: str) -> Sequence[Row[tuple[object, ...]]]:
    columns = (Step.kind, Step.title, Step.status, Step.inputs, Step.outcome, Step.cause, Step.error)
    query = select(*map(col, columns)).where(col(Step.audit_id) == audit_id).order_by(col(Step.position))
    return session.execute(query).all()
