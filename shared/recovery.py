"""How attempts end before their work is done: loss, hand-over, deadlines, overdue cancels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col

from shared.audit_moves import cancel_open_steps, go_on_without, lock_audit, move_audit
from shared.database import database_now, reading, transaction
from shared.events import append_event
from shared.leases import Lease, close_attempt
from shared.states import AuditStatus, Cause
from shared.step_moves import held_step, put_back, step_died
from shared.tables import Attempt, Audit

log = logging.getLogger(__name__)


def leave(session: Session, lease: Lease) -> None:
    """End an attempt that holds no step any more; inside `fenced`. The audit goes on without it, or ends."""
    lock_audit(session, lease.audit_id)
    _end(session, session.get_one(Attempt, lease.attempt_id), None, None)
    go_on_without(session, lease.audit_id)


def hand_over(session: Session, lease: Lease, why: str) -> None:
    """End an attempt that was asked to stop; inside `fenced`. Its step waits for another worker: no death."""
    lock_audit(session, lease.audit_id)
    if (step := held_step(session, lease)) is not None:
        put_back(session, step)
        append_event(session, lease.audit_id, "step.handed_over", step=step.title, why=why)
    leave(session, lease)


def lose(session: Session, lease: Lease, *, max_deaths: int, cause: Cause, error: str) -> None:
    """End an attempt whose worker or child is gone. Its step has died once more."""
    lock_audit(session, lease.audit_id)
    if (step := held_step(session, lease)) is not None:
        step_died(session, step, max_deaths=max_deaths, cause=cause, error=error)
    _end(session, session.get_one(Attempt, lease.attempt_id), cause, error)
    go_on_without(session, lease.audit_id)


def reap_expired(engine: Engine, max_deaths: int) -> list[str]:
    """End every attempt whose lease ran out; return their audits."""
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
            lease = Lease(attempt.audit_id, attempt.id, attempt.lease_token, seconds=0.0)
            error = f"worker {attempt.worker} stopped renewing its lease"
            lose(session, lease, max_deaths=max_deaths, cause=Cause.INFRASTRUCTURE, error=error)
            reaped.append(attempt.audit_id)


def expire_overdue(engine: Engine) -> list[str]:
    """Give up every audit whose time to queue or to run is over; return them."""
    return _end_audits(
        engine,
        (col(Audit.expires_at) < database_now(),),
        {AuditStatus.QUEUED, AuditStatus.RUNNING},
        Cause.TIMEOUT,
        _expire,
    )


def finish_cancels(engine: Engine, after_seconds: float) -> list[str]:
    """Cancel without their workers the audits whose workers did not in time; return them.

    A worker that still lives finds its attempt ended when it next renews its lease, and stops.
    """
    overdue = col(Audit.cancel_requested_at) < database_now(-after_seconds)
    return _end_audits(engine, (overdue,), {AuditStatus.CANCELLING}, Cause.USER, _cancel)


def _end_audits(
    engine: Engine,
    overdue: tuple[Any, ...],
    from_states: set[AuditStatus],
    cause: Cause,
    end: Callable[[Session, Audit], None],
) -> list[str]:
    with reading(engine) as session:
        query = select(col(Audit.id)).where(
            col(Audit.finished_at).is_(None), col(Audit.status).in_(from_states), *overdue
        )
        found = list(session.execute(query).scalars())
    return [audit_id for audit_id in found if _end_audit(engine, audit_id, from_states, cause, end)]


def _end_audit(
    engine: Engine,
    audit_id: str,
    from_states: set[AuditStatus],
    cause: Cause,
    end: Callable[[Session, Audit], None],
) -> bool:
    """End one audit unless it has moved on; whether it was ended."""
    try:
        with transaction(engine) as session:
            at_work = (
                select(Attempt)
                .where(col(Attempt.audit_id) == audit_id, col(Attempt.ended_at).is_(None))
                .with_for_update()
            )
            session.execute(at_work).all()  # attempts are locked before their audit, everywhere
            audit = lock_audit(session, audit_id)
            if audit.status not in from_states:
                return False
            for attempt in session.execute(at_work).scalars().all():  # one may have begun meanwhile
                _end(session, attempt, cause, "the audit was ended while it was at work")
            end(session, audit)
    except DBAPIError:
        raise
    except Exception:  # whatever is wrong with one audit must not keep the others waiting
        log.exception("audit %s could not be ended", audit_id)
        return False
    return True


def _expire(session: Session, audit: Audit) -> None:
    error = (
        "no worker took it within its time to queue"
        if audit.started_at is None
        else f"it did not end within the {audit.run_seconds} seconds it had to run"
    )
    cancel_open_steps(session, audit.id)
    move_audit(session, audit.id, AuditStatus.EXPIRED, cause=Cause.TIMEOUT, error=error)


def _cancel(session: Session, audit: Audit) -> None:
    cancel_open_steps(session, audit.id)
    move_audit(session, audit.id, AuditStatus.CANCELLED, cause=Cause.USER)


def _end(session: Session, attempt: Attempt, cause: Cause | None, error: str | None) -> None:
    close_attempt(session, attempt.id, attempt.lease_token, cause, error)
    told = {"cause": cause, "error": error}
    append_event(
        session,
        attempt.audit_id,
        "attempt.ended",
        attempt=attempt.number,
        worker=attempt.worker,
        **{name: value for name, value in told.items() if value},
    )
