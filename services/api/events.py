"""The history of an audit: as a list, or as a stream that ends with the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from sqlalchemy import Engine, select
from sqlmodel import col
from sse_starlette import ServerSentEvent

from services.api import audits
from services.api.authentication import Principal
from shared.database import reading
from shared.states import AuditStatus
from shared.tables import Audit, Event
from shared.views import EventView

MAX_SEQUENCE = 2**31 - 1
POLL_SECONDS = 0.5
BATCH = 500
MAX_POLLS_AT_ONCE = 8  # threads; the ones that answer requests are not taken by streams


def after(engine: Engine, principal: Principal, audit_id: str, sequence: int, limit: int) -> list[EventView]:
    """At most `limit` events after number `sequence`, in order.

    Raises:
        AuditNotFound: there is no such audit that the principal may see.
    """
    with reading(engine) as session:
        audits.find(session, principal, audit_id)
    return poll(engine, audit_id, sequence, limit)[0]


def poll(engine: Engine, audit_id: str, sequence: int, limit: int) -> tuple[list[EventView], bool]:
    """The next events, and whether none can follow them."""
    with reading(engine) as session:
        query = select(Event).where(col(Event.audit_id) == audit_id, col(Event.sequence) > sequence)
        events = session.execute(query.order_by(col(Event.sequence)).limit(limit)).scalars().all()
        status: AuditStatus = session.execute(
            select(col(Audit.status)).where(col(Audit.id) == audit_id)
        ).scalar_one()
    views = [EventView.model_validate(event, from_attributes=True) for event in events]
    return views, status.is_terminal and len(views) < limit


async def stream(
    engine: Engine, audit_id: str, sequence: int, threads: anyio.CapacityLimiter
) -> AsyncIterator[ServerSentEvent]:
    """Events after number `sequence` as they happen, until the audit has ended.

    The database is asked from other threads, so that the event loop goes on.
    """
    ended = False
    while not ended:
        events, ended = await anyio.to_thread.run_sync(
            poll, engine, audit_id, sequence, BATCH, limiter=threads
        )
        for event in events:
            sequence = event.sequence
            yield ServerSentEvent(id=str(sequence), event=event.kind, data=event.model_dump_json(), sep="\n")
        if not ended and len(events) < BATCH:
            await anyio.sleep(POLL_SECONDS)


def last_event_id(header: str | None) -> int | None:
    """The number that a client which lost its stream saw last; None when it sends none."""
    if header is None or not (header.isascii() and header.isdecimal()):
        return None
    return min(int(header[:20]), MAX_SEQUENCE)
