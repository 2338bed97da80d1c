"""Who works on what. The database is the queue: a claim is a guarded UPDATE, a lease fences writes.

An `Attempt` is one worker's spell on one audit. Its lease is judged by the database's clock alone.
Every write of the spell happens inside `fenced`, which first renews the lease under its token: a
worker whose lease was taken over (a zombie) finds no row to renew and can write nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import CursorResult, Engine, func, insert, select, update
from sqlmodel import Session, col

from shared.database import database_now, transaction
from shared.events import append_event
from shared.outbox import request_wake_up
from shared.states import AuditStatus, Cause, StepStatus, check_transition
from shared.tables import Attempt, Audit, Step, new_id


class LeaseLost(Exception):
    """The lease ran out or was taken over; nothing was written."""


@dataclass(frozen=True)
class Lease:
    """The right to write on behalf of one attempt."""

    audit_id: str
    attempt_id: str
    token: str
    seconds: float


def claim_audit(engine: Engine, worker: str, lease_seconds: float) -> Lease | None:
    """Take the first queued audit (by priority, then age); None when nothing is queued."""
    with transaction(engine) as session:
        first = (
            select(col(Audit.id))
            .where(col(Audit.status) == AuditStatus.QUEUED)
            .order_by(col(Audit.priority).desc(), col(Audit.created_at), col(Audit.id))
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        audit_id = session.execute(
            update(Audit)
            .where(col(Audit.id) == first, col(Audit.status) == AuditStatus.QUEUED)
            .values(
                status=AuditStatus.RUNNING, started_at=func.coalesce(col(Audit.started_at), database_now())
            )
            .returning(col(Audit.id))
            .execution_options(synchronize_session=False)
        ).scalar_one_or_none()
        if audit_id is None:
            return None
        number = session.execute(
            select(func.count()).select_from(Attempt).where(col(Attempt.audit_id) == audit_id)
        ).scalar_one()
        lease = Lease(audit_id, attempt_id=new_id(), token=new_id(), seconds=lease_seconds)
        session.execute(
            insert(Attempt).values(
                id=lease.attempt_id,
                audit_id=audit_id,
                number=number + 1,
                worker=worker,
                lease_token=lease.token,
                lease_expires_at=database_now(lease_seconds),
                started_at=database_now(),
            )
        )
        append_event(session, audit_id, "audit.claimed", worker=worker, attempt=number + 1)
        return lease


@contextmanager
def fenced(engine: Engine, lease: Lease) -> Iterator[Session]:
    """A transaction that commits only while the lease holds, and renews it.

    Raises:
        LeaseLost: the lease expired, ended or was taken over; nothing was written.
    """
    with transaction(engine) as session:
        renewed = session.execute(
            update(Attempt)
            .where(
                col(Attempt.id) == lease.attempt_id,
                col(Attempt.lease_token) == lease.token,
                col(Attempt.ended_at).is_(None),
                col(Attempt.lease_expires_at) > database_now(),
            )
            .values(lease_expires_at=database_now(lease.seconds))
            .execution_options(synchronize_session=False)
        )
        if _changed(renewed) != 1:
            raise LeaseLost(f"attempt {lease.attempt_id} no longer holds audit {lease.audit_id}")
        yield session


def renew(engine: Engine, lease: Lease) -> AuditStatus:
    """Heartbeat: extend the lease and learn what has become of the audit.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(engine, lease) as session:
        query = select(col(Audit.status)).where(col(Audit.id) == lease.audit_id)
        status: AuditStatus = session.execute(query).scalar_one()
    return status


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
    audit = session.get_one(Audit, audit_id, with_for_update=True, populate_existing=True)
    check_transition(audit.status, wanted)
    values: dict[str, object] = {"status": wanted, "cause": cause, "error": error}
    if wanted.is_terminal:
        values["finished_at"] = database_now()
    session.execute(
        update(Audit)
        .where(col(Audit.id) == audit_id)
        .values(values)
        .execution_options(synchronize_session=False)
    )
    append_event(session, audit_id, f"audit.{wanted}", **({"error": error} if error else {}))
    session.expire(audit)


def end_attempt(
    session: Session, lease: Lease, *, cause: Cause | None = None, error: str | None = None
) -> None:
    """Close the spell, inside `fenced`. What it was running goes back to the queue or is cancelled."""
    _close_attempt(session, lease.attempt_id, lease.token, cause, error)


def request_cancel(session: Session, audit_id: str) -> AuditStatus:
    """Cancel at once what nobody works on; ask the worker to stop what is running.

    Raises:
        IllegalTransition: the audit has already ended.
    """
    audit = session.get_one(Audit, audit_id, with_for_update=True, populate_existing=True)
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
        .values(status=StepStatus.CANCELLED, lease_token=None, finished_at=database_now())
        .execution_options(synchronize_session=False)
    )


def reap_expired(engine: Engine, max_step_deaths: int) -> list[str]:
    """End every attempt whose lease ran out and put its audit back in the queue; return the audits.

    A step that was running when its worker was lost has died once more; at `max_step_deaths` it
    fails for good, so that a step that kills its worker does not do so for ever.
    """
    reaped: list[str] = []
    while True:
        with transaction(engine) as session:
            attempt = session.execute(
                select(Attempt)
                .where(col(Attempt.ended_at).is_(None), col(Attempt.lease_expires_at) < database_now())
                .limit(1)
                .with_for_update(skip_locked=True)
            ).scalar_one_or_none()
            if attempt is None:
                return reaped
            error = f"worker {attempt.worker} stopped renewing its lease"
            return_to_queue(session, attempt, max_step_deaths, Cause.INFRASTRUCTURE, error)
            reaped.append(attempt.audit_id)


def return_to_queue(
    session: Session, attempt: Attempt, max_step_deaths: int | None, cause: Cause | None, error: str
) -> None:
    """End `attempt` and make its audit claimable again (or cancelled, if that was asked).

    max_step_deaths: how often a step may die before it fails for good, and how often in a row an
    attempt may end before it began one; None when the attempt was stopped on purpose, which is no
    death.
    """
    running = session.execute(
        select(Step).where(
            col(Step.audit_id) == attempt.audit_id,
            col(Step.lease_token) == attempt.lease_token,
            col(Step.status) == StepStatus.RUNNING,
        )
    ).scalars()
    died_at_work = False
    for step in running:
        died_at_work = True
        step.lease_token = None
        step.progress = 0.0
        step.status = StepStatus.PENDING
        if max_step_deaths is None:
            continue
        step.deaths += 1
        if step.deaths >= max_step_deaths:
            step.status, step.cause = StepStatus.FAILED, cause
            step.error = f"died {step.deaths} times; the last time: {error}"
        append_event(session, attempt.audit_id, "step.died", step=step.title, deaths=step.deaths, error=error)
    session.flush()
    _close_attempt(session, attempt.id, attempt.lease_token, cause, error)
    audit = session.get_one(Audit, attempt.audit_id, with_for_update=True, populate_existing=True)
    if audit.status is AuditStatus.CANCELLING:
        cancel_open_steps(session, audit.id)
        move_audit(session, audit.id, AuditStatus.CANCELLED, cause=Cause.USER)
    elif audit.status is AuditStatus.RUNNING:
        if max_step_deaths and not died_at_work and _never_begins(session, audit.id, max_step_deaths):
            cancel_open_steps(session, audit.id)
            error = f"{max_step_deaths} attempts in a row began no step; the last time: {error}"
            move_audit(session, audit.id, AuditStatus.FAILED, cause=cause, error=error)
            return
        move_audit(session, audit.id, AuditStatus.QUEUED)
        request_wake_up(session, audit.id)


def _never_begins(session: Session, audit_id: str, attempts: int) -> bool:
    """Whether the last `attempts` of an audit all failed before a step began.

    Such an audit would be claimed again and again, for ever, before all that wait behind it.
    """
    latest = (
        session.execute(
            select(Attempt)
            .where(col(Attempt.audit_id) == audit_id)
            .order_by(col(Attempt.number).desc())
            .limit(attempts)
            .execution_options(populate_existing=True)
        )
        .scalars()
        .all()
    )
    if len(latest) < attempts or any(attempt.cause is None for attempt in latest):
        return False
    begun: int = session.execute(
        select(func.count())
        .select_from(Step)
        .where(col(Step.audit_id) == audit_id, col(Step.started_at) >= latest[-1].started_at)
    ).scalar_one()
    return begun == 0


def _close_attempt(
    session: Session, attempt_id: str, token: str, cause: Cause | None, error: str | None
) -> None:
    session.execute(
        update(Attempt)
        .where(col(Attempt.id) == attempt_id, col(Attempt.lease_token) == token)
        .values(ended_at=database_now(), cause=cause, error=error)
        .execution_options(synchronize_session=False)
    )


def _changed(result: object) -> int:
    assert isinstance(result, CursorResult)  # noqa: S101 (narrowing for the type checker)
    return result.rowcount
