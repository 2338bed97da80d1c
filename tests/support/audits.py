"""Rows that a test needs before it can begin: an accepted audit and its steps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, insert, update
from sqlmodel import col

from shared.database import database_now, transaction
from shared.events import append_event
from shared.outbox import request_wake_up
from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import Audit, EditSet, Step, new_id


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
    """A step of an audit; its id."""
    step_id = new_id()
    values = {
        "key": new_id(),
        "title": f"{kind} {position}",
        "needs": [],
        "inputs": {},
        "deaths": 0,
        "progress": 0.0,
    }
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
