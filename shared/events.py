"""The visible history of an audit."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, update
from sqlmodel import Session, col

from shared.database import database_now
from shared.tables import Audit, Event


def append_event(session: Session, audit_id: str, kind: str, **data: Any) -> int:
    """Add an event and return its sequence number.

    The counter lives on the audit's row, so that writers queue on its lock and the numbers have no
    gaps: a transaction that fails takes its number back with it.
    """
    sequence: int = session.execute(
        update(Audit)
        .where(col(Audit.id) == audit_id)
        .values(event_count=col(Audit.event_count) + 1)
        .returning(col(Audit.event_count))
        .execution_options(synchronize_session=False)
    ).scalar_one()
    session.execute(
        insert(Event).values(audit_id=audit_id, sequence=sequence, at=database_now(), kind=kind, data=data)
    )
    return sequence
