"""Messages leave the database, not the request: written with the change, sent afterwards.

A wake-up is only a hint, so one row per audit suffices: sending it marks the row, and an audit that
still waits a while later has its row marked unsent again (`repeat_unheard_wake_ups`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Engine, func, insert, select, update
from sqlmodel import Session, col

from shared.database import database_now, reading, transaction
from shared.queue_order import claimable
from shared.tables import Audit, OutboxMessage, Step, new_id

WAKE_UP = "wake_up"
LONGEST_WAIT_SECONDS = 60.0
STEPS_LOOKED_AT = 100  # the next ones; one audit may own many of them
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


def repeat_unheard_wake_ups(engine: Engine, after_seconds: float) -> None:
    """Send again for the audits that are next but that no worker has taken: the broker may lose anything.

    after_seconds: how long the first hint is waited for; after each further one twice as long, up to
    `LONGEST_WAIT_SECONDS`.
    """
    with reading(engine) as session:
        next_up = session.execute(claimable(col(Audit.id)).limit(STEPS_LOOKED_AT)).scalars()
        messages = session.execute(
            select(OutboxMessage, database_now().label("now")).where(
                col(OutboxMessage.audit_id).in_(list(dict.fromkeys(next_up))[:WAKE_UPS_AT_ONCE]),
                col(OutboxMessage.kind) == WAKE_UP,
                col(OutboxMessage.sent_at).is_not(None),
            )
        ).all()
    for message, now in messages:
        wait = min(after_seconds * 2 ** (message.sent_count - 1), LONGEST_WAIT_SECONDS)
        if message.sent_at < now - timedelta(seconds=wait):
            with transaction(engine) as session:
                send_again(session, message.audit_id)


def send_again(session: Session, audit_id: str) -> None:
    """Have the hint of an audit sent once more, if it has one."""
    session.execute(
        update(OutboxMessage)
        .where(col(OutboxMessage.audit_id) == audit_id, col(OutboxMessage.kind) == WAKE_UP)
        .values(sent_at=None)
        .execution_options(synchronize_session=False)
    )


def relay(engine: Engine, send: Callable[[str, str], None]) -> int:
    """Send what is unsent as `send(kind, audit_id)`, oldest first; return how many rows were sent.

    An audit with several steps to be taken is hinted at as many times, for as many workers.

    A message is marked after it was sent, so it leaves at least once, and the broker is never
    spoken to inside a transaction. An error of `send` ends the round; the rest stays for the next.
    """
    ready = (
        select(func.count())
        .select_from(Step)
        .where(col(Step.audit_id) == col(OutboxMessage.audit_id), col(Step.ready_at).is_not(None))
        .scalar_subquery()
    )
    with reading(engine) as session:
        messages = session.execute(
            select(col(OutboxMessage.id), col(OutboxMessage.kind), col(OutboxMessage.audit_id), ready)
            .where(col(OutboxMessage.sent_at).is_(None))
            .order_by(col(OutboxMessage.created_at))
            .limit(100)
        ).all()
    for message_id, kind, audit_id, steps in messages:
        for _ in range(max(1, min(steps, WAKE_UPS_AT_ONCE))):
            send(kind, audit_id)
        with transaction(engine) as session:
            session.execute(
                update(OutboxMessage)
                .where(col(OutboxMessage.id) == message_id)
                .values(sent_at=database_now(), sent_count=col(OutboxMessage.sent_count) + 1)
                .execution_options(synchronize_session=False)
            )
    return len(messages)
