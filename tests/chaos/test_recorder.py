"""The recorder copies every change, in its transaction, on both databases; nothing can be taken back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col

from migrations import upgrade
from shared.claims import claim
from shared.database import create_database_engine, database_now, transaction
from shared.leases import fenced
from shared.recovery import leave
from shared.states import AuditStatus
from shared.tables import Audit
from tests.chaos.history import History, merged
from tests.chaos.instrumentation import sitecustomize
from tests.chaos.recorder import COLUMNS, install, recorded
from tests.support.audits import add_audit, add_step


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """An engine over a migrated database that is recorded."""
    for module in (sqlite3, sqlite3.dbapi2):
        monkeypatch.setattr(module, "connect", sqlite3.connect)  # as it is again after the test
    sitecustomize.number_transactions()
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'holdfast.db'}" if sqlite else request.getfixturevalue("postgresql_url")
    upgrade(url)
    engine = create_database_engine(url)
    install(engine)
    yield engine
    engine.dispose()


def history_of(engine: Engine) -> History:
    return merged({"type": "header", "at": 0.0}, recorded(engine))


def test_changes_are_recorded_in_order_with_what_was_before(engine: Engine) -> None:
    audit = add_audit(engine, idempotency_key="once")
    move(engine, audit, AuditStatus.RUNNING)
    history = history_of(engine)
    assert [(row.table, row.operation) for row in history.rows] == [
        ("audit", "insert"),
        ("audit", "update"),  # its event's number
        ("event", "insert"),
        ("outbox_message", "insert"),
        ("audit", "update"),
    ]
    first, last = history.changes("audit")[0], history.changes("audit")[-1]
    assert first.old is None
    assert (last.before, last.became("running"), last.values["idempotency_key"]) == ("queued", True, "once")
    assert all(set(row.values) == set(COLUMNS[row.table]) for row in history.rows)
    assert abs(first.at - first.values["created_at"]) < 60
    assert first.values["from_scratch"] is False


def test_rows_of_one_transaction_are_told_from_those_of_the_next(engine: Engine) -> None:
    first, second = add_audit(engine), add_audit(engine)
    history = history_of(engine)
    by_transaction = [
        {row.values.get("audit_id", row.values["id"]) for row in rows if row.table != "event"}
        for rows in history.transactions.values()
    ]
    assert by_transaction == [{first}, {second}]


def test_what_was_rolled_back_is_not_recorded(engine: Engine) -> None:
    audit = add_audit(engine)
    before = len(history_of(engine).rows)
    with Session(engine) as session:
        session.execute(update(Audit).where(col(Audit.id) == audit).values(priority=5))
        session.rollback()
    assert len(history_of(engine).rows) == before


def test_claim_and_its_end_look_to_the_rules_as_they_are(engine: Engine) -> None:
    audit = add_audit(engine)
    step = add_step(engine, audit, ready_at=database_now())
    lease = claim(engine, "worker", 60, "code")
    assert lease is not None
    with fenced(engine, lease) as session:
        session.execute(text("UPDATE step SET status = 'succeeded' WHERE id = :id"), {"id": step})
        leave(session, lease)
    history = history_of(engine)
    [success] = (row for row in history.changes("step") if row.became("succeeded"))
    fence = history.transactions[success.transaction][0]
    assert (fence.table, fence.values["lease_token"]) == ("attempt", lease.token)
    assert fence.old is not None
    assert fence.old["ended_at"] is None
    assert history.changes("attempt")[-1].values["ended_at"] is not None


@pytest.mark.parametrize("change", ["DELETE FROM history", "UPDATE history SET old = NULL"])
def test_history_cannot_be_changed(engine: Engine, change: str) -> None:
    add_audit(engine)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(change))


def move(engine: Engine, audit: str, status: AuditStatus) -> None:
    with transaction(engine) as session:
        session.execute(update(Audit).where(col(Audit.id) == audit).values(status=status))
