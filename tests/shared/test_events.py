"""The history of an audit has no gaps, whoever writes to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select
from sqlmodel import col

from shared.database import reading, transaction
from shared.events import append_event
from shared.tables import Audit, Event
from tests.support.audits import add_audit

WRITERS = 4
EVENTS_EACH = 10


def sequences(engine: Engine, audit_id: str) -> list[int]:
    with reading(engine) as session:
        query = select(col(Event.sequence)).where(col(Event.audit_id) == audit_id)
        return list(session.execute(query.order_by(col(Event.sequence))).scalars())


def test_sequence_has_no_gaps_under_concurrent_writers(engine: Engine) -> None:
    audit_id = add_audit(engine)

    def write(_: int) -> None:
        for _ in range(EVENTS_EACH):
            with transaction(engine) as session:
                append_event(session, audit_id, "step.started")

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    assert sequences(engine, audit_id) == list(range(1, 2 + WRITERS * EVENTS_EACH))


def test_failed_transaction_takes_its_number_back(engine: Engine) -> None:
    audit_id = add_audit(engine)

    def append_and_fail() -> None:
        with transaction(engine) as session:
            append_event(session, audit_id, "step.started")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        append_and_fail()
    with transaction(engine) as session:
        assert append_event(session, audit_id, "step.started") == 2


def test_audits_count_their_events_apart(engine: Engine) -> None:
    first, second = add_audit(engine), add_audit(engine)
    with transaction(engine) as session:
        append_event(session, first, "step.started")
    assert (sequences(engine, first), sequences(engine, second)) == ([1, 2], [1])


def test_event_keeps_its_data(engine: Engine) -> None:
    audit_id = add_audit(engine)
    with transaction(engine) as session:
        append_event(session, audit_id, "step.reused", step="édition → k=3", deaths=0)
    with reading(engine) as session:
        event = session.get_one(Event, (audit_id, 2))
    assert (event.kind, event.data) == ("step.reused", {"step": "édition → k=3", "deaths": 0})


def test_audit_carries_the_number_of_its_events(engine: Engine) -> None:
    audit_id = add_audit(engine)
    with reading(engine) as session:
        assert session.get_one(Audit, audit_id).event_count == 1
