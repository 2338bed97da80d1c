"""Every wake-up leaves at least once, and the broker is never trusted to keep it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, update
from sqlmodel import col

from shared.database import database_now, transaction
from shared.outbox import WAKE_UP, WAKE_UPS_AT_ONCE, relay, repeat_unheard_wake_ups, request_wake_up
from shared.states import AuditStatus
from shared.tables import Audit, OutboxMessage
from tests.support.audits import add_audit, add_step, add_work, claimed

AFTER_SECONDS = 10.0


class Broker:
    """Keeps what was sent; refuses the messages of `unreachable` audits."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.unreachable: set[str] = set()

    def send(self, kind: str, audit_id: str) -> None:
        assert kind == WAKE_UP
        if audit_id in self.unreachable:
            raise ConnectionError("the broker is away")
        self.sent.append(audit_id)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def let_time_pass(engine: Engine, seconds: float = AFTER_SECONDS + 1) -> None:
    with transaction(engine) as session:
        session.execute(update(OutboxMessage).values(sent_at=database_now(-seconds)))


def test_wake_ups_are_sent_oldest_first(engine: Engine, broker: Broker) -> None:
    audits = [add_audit(engine) for _ in range(3)]
    with transaction(engine) as session:
        for age, audit_id in enumerate(audits):
            session.execute(
                update(OutboxMessage)
                .where(col(OutboxMessage.audit_id) == audit_id)
                .values(created_at=datetime.now(UTC) - timedelta(minutes=age))
            )
    assert relay(engine, broker.send) == 3
    assert broker.sent == audits[::-1]


def test_sent_wake_up_is_not_sent_again(engine: Engine, broker: Broker) -> None:
    add_audit(engine)
    relay(engine, broker.send)
    assert relay(engine, broker.send) == 0


def test_wake_up_that_could_not_be_sent_is_sent_in_the_next_round(engine: Engine, broker: Broker) -> None:
    audit_id = add_audit(engine)
    broker.unreachable = {audit_id}
    with pytest.raises(ConnectionError):
        relay(engine, broker.send)
    broker.unreachable = set()
    relay(engine, broker.send)
    assert broker.sent == [audit_id]


def test_relay_that_dies_before_it_marks_a_message_sends_it_again(engine: Engine, broker: Broker) -> None:
    audit_id = add_audit(engine)

    def send_and_die(kind: str, audit: str) -> None:
        broker.send(kind, audit)
        raise SystemExit

    with pytest.raises(SystemExit):
        relay(engine, send_and_die)
    relay(engine, broker.send)
    assert broker.sent == [audit_id, audit_id]


def test_wake_up_of_a_rolled_back_submission_never_leaves(engine: Engine, broker: Broker) -> None:
    audit_id = add_audit(engine)
    relay(engine, broker.send)

    def request_and_fail() -> None:
        with transaction(engine) as session:
            request_wake_up(session, audit_id)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        request_and_fail()
    assert relay(engine, broker.send) == 0


def test_audit_that_no_worker_took_is_announced_again(engine: Engine, broker: Broker) -> None:
    audit_id, _ = add_work(engine)
    relay(engine, broker.send)
    let_time_pass(engine)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    relay(engine, broker.send)
    assert broker.sent == [audit_id, audit_id]


def test_step_of_a_running_audit_that_no_worker_took_is_announced_too(engine: Engine, broker: Broker) -> None:
    audit_id, _ = add_work(engine)
    add_step(engine, audit_id, 1)
    relay(engine, broker.send)
    claimed(engine)
    let_time_pass(engine)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    assert relay(engine, broker.send) == 1


def test_audit_with_several_steps_to_take_is_announced_to_as_many_workers(
    engine: Engine, broker: Broker
) -> None:
    audit_id = add_audit(engine)
    for position in range(3):
        add_step(engine, audit_id, position)
    relay(engine, broker.send)
    assert broker.sent == [audit_id] * 3


def test_audit_just_announced_is_not_announced_again(engine: Engine, broker: Broker) -> None:
    add_work(engine)
    relay(engine, broker.send)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    assert relay(engine, broker.send) == 0


def test_each_repetition_waits_longer(engine: Engine, broker: Broker) -> None:
    add_work(engine)
    relay(engine, broker.send)
    let_time_pass(engine)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    relay(engine, broker.send)
    let_time_pass(engine)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    assert relay(engine, broker.send) == 0
    let_time_pass(engine, 2 * AFTER_SECONDS + 1)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    assert relay(engine, broker.send) == 1


@pytest.mark.parametrize(
    "status", [status for status in AuditStatus if status not in {AuditStatus.QUEUED, AuditStatus.RUNNING}]
)
def test_audit_with_nothing_to_take_is_not_announced_again(
    engine: Engine, broker: Broker, status: AuditStatus
) -> None:
    add_work(engine)
    relay(engine, broker.send)
    let_time_pass(engine)
    with transaction(engine) as session:
        session.execute(update(Audit).values(status=status))
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    assert relay(engine, broker.send) == 0


def test_only_the_next_audits_of_a_long_queue_are_announced_again(engine: Engine, broker: Broker) -> None:
    now = datetime.now(UTC)
    for age in range(WAKE_UPS_AT_ONCE + 2):
        add_work(engine, created_at=now - timedelta(minutes=age))
    first, _ = add_work(engine, priority=1)
    relay(engine, broker.send)
    broker.sent.clear()
    let_time_pass(engine)
    repeat_unheard_wake_ups(engine, AFTER_SECONDS)
    relay(engine, broker.send)
    assert len(broker.sent) == WAKE_UPS_AT_ONCE
    assert first in broker.sent
