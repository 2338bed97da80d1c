"""Rows that a test needs before it can begin: an accepted audit and its steps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlmodel import col

from shared.audit_moves import lock_audit
from shared.claims import claim, take_next_step
from shared.database import database_now, reading, transaction
from shared.events import append_event
from shared.leases import Lease, fenced
from shared.outbox import request_wake_up
from shared.recovery import leave
from shared.states import AuditStatus, StepKind, StepStatus
from shared.step_moves import held_step, move_step, settle
from shared.tables import Attempt, Audit, EditSet, Event, Step, new_id

CODE = "c" * 64
LONG_SECONDS = 3600.0


def add_audit(engine: Engine, *, status: AuditStatus = AuditStatus.QUEUED, **columns: Any) -> str:
    """An audit with its first event and its wake-up, as a submission writes them; its id."""
    audit_id, edit_set_id = new_id(), new_id()
    with transaction(engine) as session:
        session.execute(
            insert(EditSet).values(
                id=edit_set_id,
                content_hash=new_id(),
                edit_count=1,
                edits=[],
                created_at=database_now(),
            )
        )
        values = {
            "submitter": "anonymous",
            "request_hash": new_id(),
            "request": {},
            "model_reference": "builtin:almanac",
            "labels": {},
            "priority": 0,
            "event_count": 0,
            "created_at": database_now(),
        }
        session.execute(
            insert(Audit).values(
                **{**values, **columns}, id=audit_id, edit_set_id=edit_set_id, status=AuditStatus.QUEUED
            )
        )
        append_event(session, audit_id, "audit.submitted")
        request_wake_up(session, audit_id)
        if status is not AuditStatus.QUEUED:
            session.execute(update(Audit).where(col(Audit.id) == audit_id).values(status=status))
    return audit_id


def add_step(
    engine: Engine,
    audit_id: str,
    position: int = 0,
    *,
    kind: StepKind = StepKind.PLAN,
    status: StepStatus = StepStatus.PENDING,
    **columns: Any,
) -> str:
    """A step of an audit, ready to be taken if it waits and needs nothing; its id."""
    step_id = new_id()
    values = {
        "key": new_id(),
        "title": f"{kind} {position}",
        "needs": [],
        "inputs": {},
        "deaths": 0,
        "progress": 0.0,
    }
    if status is StepStatus.PENDING and not columns.get("needs"):
        values["ready_at"] = database_now()
    with transaction(engine) as session:
        session.execute(
            insert(Step).values(
                **{**values, **columns},
                id=step_id,
                audit_id=audit_id,
                position=position,
                kind=kind,
                status=status,
            )
        )
    return step_id


def add_work(engine: Engine, **columns: Any) -> tuple[str, str]:
    """An audit with one step that can be taken; their ids."""
    audit_id = add_audit(engine, **columns)
    return audit_id, add_step(engine, audit_id)


def claimed(engine: Engine, worker: str = "worker-1") -> Lease:
    """The lease of whatever is to be claimed next."""
    lease = claim(engine, worker, LONG_SECONDS, CODE)
    assert lease is not None
    return lease


def let_lease_expire(engine: Engine, lease: Lease) -> None:
    """Make the lease's time run out."""
    with transaction(engine) as session:
        session.execute(
            update(Attempt)
            .where(col(Attempt.id) == lease.attempt_id)
            .values(lease_expires_at=database_now(-1.0))
        )


def end_step(engine: Engine, lease: Lease, status: StepStatus = StepStatus.SUCCEEDED, **columns: Any) -> None:
    """End the step that the attempt holds, as a worker does."""
    with fenced(engine, lease) as session:
        lock_audit(session, lease.audit_id)
        step = held_step(session, lease)
        assert step is not None
        move_step(session, step.id, status, held_by=lease.token, **columns)
        settle(session, lease.audit_id)


def go_on(engine: Engine, lease: Lease) -> str | None:
    """The id of the next step of the lease's audit that the attempt takes; None when it has left."""
    with fenced(engine, lease) as session:
        lock_audit(session, lease.audit_id)
        step = take_next_step(session, lease, CODE)
        if step is None:
            leave(session, lease)
            return None
        return step.id


def audit_of(engine: Engine, audit_id: str) -> Audit:
    """The audit as it stands."""
    with reading(engine) as session:
        return session.get_one(Audit, audit_id)


def step_of(engine: Engine, step_id: str) -> Step:
    """The step as it stands."""
    with reading(engine) as session:
        return session.get_one(Step, step_id)


def attempt_of(engine: Engine, lease: Lease) -> Attempt:
    """The attempt as it stands."""
    with reading(engine) as session:
        return session.get_one(Attempt, lease.attempt_id)


def event_kinds(engine: Engine, audit_id: str) -> list[str]:
    """What has happened to the audit, in order."""
    query = select(col(Event.kind)).where(col(Event.audit_id) == audit_id).order_by(col(Event.sequence))
    with reading(engine) as session:
        return list(session.execute(query).scalars())
