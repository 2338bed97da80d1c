"""The background thread sends, repeats and reaps, and nothing ends it before it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError

from services.api.relay import Relay, broker_sender
from shared.audit_moves import request_cancel
from shared.broker import QUEUE, WAKE_UP_TASK, create_celery
from shared.database import create_database_engine, database_now, reading, transaction
from shared.leases import renew
from shared.settings import Settings
from shared.states import AuditStatus
from shared.tables import Attempt, Audit, OutboxMessage, metadata
from tests.support.audits import add_audit, add_work, attempt_of, audit_of, claimed, let_lease_expire

DEADLINE = 30.0


class Broker:
    """Counts what it is told; fails as long as it is told to."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.told = threading.Semaphore(0)
        self.failures_left = 0

    def send(self, _kind: str, audit_id: str) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise ConnectionError("the broker is away")
        self.sent.append(audit_id)
        self.told.release()

    def wait(self) -> None:
        assert self.told.acquire(timeout=DEADLINE)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_database_engine(f"sqlite:///{tmp_path / 'holdfast.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def broker() -> Broker:
    return Broker()


def running(engine: Engine, broker: Broker, reconcile_seconds: float) -> Relay:
    relay = Relay(engine, Settings(reconcile_seconds=reconcile_seconds), broker.send)
    relay.start()
    return relay


def test_relay_sends_at_once_when_notified(engine: Engine, broker: Broker) -> None:
    first = add_audit(engine)
    relay = running(engine, broker, reconcile_seconds=3600)
    broker.wait()
    second = add_audit(engine)
    relay.notify()
    broker.wait()
    relay.stop()
    assert broker.sent == [first, second]


def test_relay_sends_what_it_finds_without_being_notified(engine: Engine, broker: Broker) -> None:
    relay = running(engine, broker, reconcile_seconds=0.02)
    audit_id = add_audit(engine)
    broker.wait()
    relay.stop()
    assert broker.sent[0] == audit_id


def test_relay_goes_on_after_the_broker_was_away(
    engine: Engine, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.failures_left = 2
    audit_id = add_audit(engine)
    relay = running(engine, broker, reconcile_seconds=0.02)
    broker.wait()
    relay.stop()
    assert broker.sent[0] == audit_id
    assert "the relay goes on after an error" in caplog.messages


def test_relay_announces_an_audit_that_nobody_claimed_again(engine: Engine, broker: Broker) -> None:
    audit_id, _ = add_work(engine)
    with transaction(engine) as session:
        session.execute(update(OutboxMessage).values(sent_at=database_now(-3600)))
    relay = running(engine, broker, reconcile_seconds=3600 / 4)
    broker.wait()
    relay.stop()
    assert broker.sent == [audit_id]


def test_relay_returns_the_audit_of_a_lost_worker_to_the_queue(engine: Engine, broker: Broker) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    with transaction(engine) as session:
        session.execute(update(OutboxMessage).values(sent_at=database_now()))
        session.execute(update(Attempt).values(lease_expires_at=database_now(-1)))
    Relay(engine, Settings(), broker.send).run_round()
    broker.wait()
    with reading(engine) as session:
        assert session.get_one(Audit, audit_id).status is AuditStatus.QUEUED


def test_round_ends_audits_whose_time_is_over(engine: Engine, broker: Broker) -> None:
    audit_id, _ = add_work(engine, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    Relay(engine, Settings(), broker.send).run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.EXPIRED


def test_round_carries_out_a_cancel_that_the_workers_did_not(engine: Engine, broker: Broker) -> None:
    settings = Settings()
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    relay = Relay(engine, settings, broker.send)
    relay.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLING
    with transaction(engine) as session:
        session.get_one(Audit, audit_id).cancel_requested_at = datetime.now(UTC) - timedelta(
            seconds=settings.cancel_deadline_seconds + 1
        )
    relay.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED
    assert attempt_of(engine, lease).ended_at is not None


def test_workers_are_spared_for_a_lease_after_the_database_was_away(
    engine: Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    settings = Settings()
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    relay = Relay(engine, settings, broker.send, clock=lambda: now)

    def away(*_: object) -> list[str]:
        raise OperationalError("SELECT 1", {}, ConnectionError("the database is away"))

    with monkeypatch.context() as outage:
        outage.setattr("services.api.relay.reap_expired", away)
        relay.run_round()
    let_lease_expire(engine, lease)

    now += settings.lease_seconds - 1
    relay.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING

    now += 1
    relay.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED


def test_workers_are_spared_for_a_lease_after_the_gateway_has_started(engine: Engine, broker: Broker) -> None:
    audit_id, _ = add_work(engine)
    let_lease_expire(engine, claimed(engine))
    relay = Relay(engine, Settings(reconcile_seconds=0.01), broker.send)
    relay.start()
    broker.wait()  # what it sent was sent in a round that could have reaped
    relay.stop()
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING


def test_worker_that_renews_after_the_database_was_away_keeps_its_audit(
    engine: Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    relay = Relay(engine, Settings(), broker.send, clock=lambda: now)

    def away(*_: object) -> list[str]:
        raise OperationalError("SELECT 1", {}, ConnectionError("the database is away"))

    with monkeypatch.context() as outage:
        outage.setattr("services.api.relay.reap_expired", away)
        relay.run_round()
    let_lease_expire(engine, lease)
    relay.run_round()
    renew(engine, lease)
    now += 1_000_000
    relay.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING


def test_error_of_the_broker_does_not_keep_lost_workers_from_being_found(
    engine: Engine, broker: Broker
) -> None:
    broker.failures_left = 1
    add_audit(engine)
    audit_id, _ = add_work(engine)
    let_lease_expire(engine, claimed(engine))
    relay = Relay(engine, Settings(), broker.send)
    for _ in range(2):
        relay.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED


def test_stopped_relay_sends_no_more(engine: Engine, broker: Broker) -> None:
    relay = running(engine, broker, reconcile_seconds=0.01)
    relay.stop()
    add_audit(engine)
    relay.notify()
    assert broker.sent == []


@pytest.mark.parametrize("kind", ["filesystem", "redis"])
def test_wake_up_reaches_the_queue_of_the_workers(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("redis_url") if kind == "redis" else ""
    settings = Settings(data_directory=tmp_path, broker_url=url)
    broker_sender(settings)("wake_up", "a" * 32)
    with create_celery(settings).connection_for_read() as connection:
        queue = connection.SimpleQueue(QUEUE)
        message = queue.get(timeout=DEADLINE)
        message.ack()
        queue.close()
    assert message.headers["task"] == WAKE_UP_TASK
    assert message.payload[0] == ["a" * 32]
