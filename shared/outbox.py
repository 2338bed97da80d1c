"""Messages leave the database, not the request: written with the change, sent afterwards.

A wake-up is only a hint, so one row per audit suffices: sending it marks the row, and an audit that
still waits a while later has its row marked unsent again (`repeat_unheard_wake_ups`).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, insert, select, update
from sqlmodel import Session, col

from shared.database import database_now, reading, transaction
from shared.tables import OutboxMessage, new_id

WAKE_UP = "wake_up"
WAKE_UPS_AT_ONCE = 10  # a worker that wakes drains the queue; more hints than workers help nobody


def request_wake_up(session: Session, audit_id: str) -> None:
    """Have the workers told of an audit, once the transaction has committed."""
    updated = session.execute(
        update(OutboxMessage)
        .where(col(OutboxMessage.audit_id) == audit_id, col(OutboxMessage.kind) == WAKE_UP)
        .values(sent_at=None, sent_count=0)
        .returning(col(OutboxMessage.id))
        .execution_options(synchronize_session=False)
    ).first()
    if updated is None:
        session.execute(
            insert(OutboxMessage).values(
                id=new_id(), kind=WAKE_UP, audit_id=audit_id, created_at=database_now()
            )
        )


def relay(engine: Engine, send: Callable[[str, str], None]) -> int:
    """Send what is unsent as `send(kind, audit_id)`, oldest first; return how many were sent.

    A message is marked after it was sent, so it leaves at least once, and the broker is never
    spoken to inside a transaction. An error of `send` ends the round; the rest stays for the next.
    """
    with reading(engine) as session:
        messages = session.execute(
            select(col(OutboxMessage.id), col(OutboxMessage.kind), col(OutboxMessage.audit_id))
            .where(col(OutboxMessage.sent_at).is_(None))
            .order_by(col(OutboxMessage.created_at))
            .limit(100)
        ).all()
    for message_id, kind, audit_id in messages:
        send(kind, audit_id)
        with transaction(engine) as session:
            session.execute(
                update(OutboxMessage)
                .where(col(OutboxMessage.id) == message_id)
                .values(sent_at=database_now(), sent_count=col(OutboxMessage.sent_count) + 1)
                .execution_options(synchronize_session=False)
            )
    return len(messages)
