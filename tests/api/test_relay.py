"""The relay sends what is to be sent, and nothing ends it before it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.api.relay import Relay, broker_sender
from shared.broker import QUEUE, WAKE_UP_TASK, create_celery
from shared.database import create_database_engine
from shared.settings import Settings
from shared.tables import metadata
from tests.support.audits import add_audit

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
