"""The right to write: a lease is held by a row, and every write of its holder goes through that row.

An `Attempt` is one worker's spell on one audit. Whoever ends it (its worker, or the reaper once the
lease has run out by the database's clock) does so in the row that every write of the spell updates
first. So a worker whose attempt was ended (a zombie) finds no row to update and can write nothing,
whatever its own clock says; and one that is late, but whom nobody has replaced, may go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, func, select, update
from sqlmodel import Session, col

from shared.database import changed_rows, database_now, transaction
from shared.states import AuditStatus, Cause
from shared.tables import Attempt, Audit, Step


class LeaseLost(Exception):
    """The attempt was ended by somebody else; nothing was written."""


@dataclass(frozen=True)
class Lease:
    """The right to write on behalf of one attempt."""

    audit_id: str
    attempt_id: str
    token: str
    seconds: float


@dataclass(frozen=True)
class Heartbeat:
    """What a worker learns when it renews its lease.

    silent_seconds: how long the step at hand has shown no progress; without one, how long ago the last ended.
    """

    status: AuditStatus
    silent_seconds: float


@contextmanager
def fenced(engine: Engine, lease: Lease) -> Iterator[Session]:
    """A transaction that commits only while the attempt is open, and renews its lease.

    Raises:
        LeaseLost: the attempt has ended; nothing was written.
    """
    with transaction(engine) as session:
        hold(session, lease)
        yield session


def hold(session: Session, lease: Lease) -> None:
    """Lock the attempt's row for the rest of the transaction and renew its lease.

    Raises:
        LeaseLost: the attempt has ended.
    """
    renewed = session.execute(
        update(Attempt)
        .where(
            col(Attempt.id) == lease.attempt_id,
            col(Attempt.lease_token) == lease.token,
            col(Attempt.ended_at).is_(None),
        )
        .values(lease_expires_at=database_now(lease.seconds))
        .execution_options(synchronize_session=False)
    )
    if changed_rows(renewed) != 1:
        raise LeaseLost(f"attempt {lease.attempt_id} no longer holds audit {lease.audit_id}")


def renew(engine: Engine, lease: Lease) -> Heartbeat:
    """Extend the lease and learn what has become of the audit and of the step at hand.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(engine, lease) as session:
        status: AuditStatus = session.execute(
            select(col(Audit.status)).where(col(Audit.id) == lease.audit_id)
        ).scalar_one()
        steps = session.execute(
            select(func.max(col(Step.progressed_at)), func.max(col(Step.finished_at))).where(
                col(Step.audit_id) == lease.audit_id, col(Step.lease_token) == lease.token
            )
        ).one()
        began, now = session.execute(
            select(col(Attempt.started_at), database_now()).where(col(Attempt.id) == lease.attempt_id)
        ).one()
    shown = max(at for at in (began, *steps) if at is not None)
    return Heartbeat(status, (now - shown).total_seconds())


def close_attempt(
    session: Session, attempt_id: str, token: str, cause: Cause | None = None, error: str | None = None
) -> None:
    """End an attempt: from now on nothing can be written under its token."""
    session.execute(
        update(Attempt)
        .where(col(Attempt.id) == attempt_id, col(Attempt.lease_token) == token)
        .values(ended_at=database_now(), cause=cause, error=error)
        .execution_options(synchronize_session=False)
    )
