"""What was lost is found, what is overdue is ended, and workers are spared when nobody could renew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from services.api.reconciler import Reconciler
from shared import recovery
from shared.audit_moves import request_cancel
from shared.database import create_database_engine, database_now, reading, transaction
from shared.leases import renew
from shared.outbox import relay
from shared.settings import Settings
from shared.states import AuditStatus
from shared.tables import Attempt, Audit, OutboxMessage, metadata
from tests.support.audits import add_work, attempt_of, audit_of, claimed, let_lease_expire


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_database_engine(f"sqlite:///{tmp_path / 'holdfast.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_round_announces_an_audit_that_nobody_claimed_again(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    with transaction(engine) as session:
        session.execute(update(OutboxMessage).values(sent_at=database_now(-3600)))
    Reconciler(engine, Settings()).run_round()
    sent: list[str] = []
    relay(engine, lambda kind, audit: sent.append(audit))
    assert sent == [audit_id]


def test_round_returns_the_audit_of_a_lost_worker_to_the_queue(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    with transaction(engine) as session:
        session.execute(update(OutboxMessage).values(sent_at=database_now()))
        session.execute(update(Attempt).values(lease_expires_at=database_now(-1)))
    Reconciler(engine, Settings()).run_round()
    with reading(engine) as session:
        assert session.get_one(Audit, audit_id).status is AuditStatus.QUEUED


def test_round_ends_audits_whose_time_is_over(engine: Engine) -> None:
    audit_id, _ = add_work(engine, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    Reconciler(engine, Settings()).run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.EXPIRED


def test_round_carries_out_a_cancel_that_the_workers_did_not(engine: Engine) -> None:
    settings = Settings()
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    reconciler = Reconciler(engine, settings)
    reconciler.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLING
    with transaction(engine) as session:
        session.get_one(Audit, audit_id).cancel_requested_at = datetime.now(UTC) - timedelta(
            seconds=settings.cancel_deadline_seconds + 1
        )
    reconciler.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED
    assert attempt_of(engine, lease).ended_at is not None


def test_workers_are_spared_for_a_lease_after_the_database_was_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    settings = Settings()
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    reconciler = Reconciler(engine, settings, clock=lambda: now)

    def away(*_: object) -> list[str]:
        raise OperationalError("SELECT 1", {}, ConnectionError("the database is away"))

    with monkeypatch.context() as outage:
        outage.setattr("services.api.reconciler.reap_expired", away)
        reconciler.run_round()
    let_lease_expire(engine, lease)

    now += settings.lease_seconds - 1
    reconciler.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING

    now += 1
    reconciler.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED


def test_workers_are_spared_for_a_lease_after_the_gateway_has_started(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_id, _ = add_work(engine)
    let_lease_expire(engine, claimed(engine))
    looked = threading.Semaphore(0)
    monkeypatch.setattr("services.api.reconciler.repeat_unheard_wake_ups", lambda *_: looked.release())
    reconciler = Reconciler(engine, Settings(reconcile_seconds=0.01))
    reconciler.start()
    assert looked.acquire(timeout=30)  # the last thing that a round does
    reconciler.stop()
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING


def test_worker_that_renews_after_the_database_was_away_keeps_its_audit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    reconciler = Reconciler(engine, Settings(), clock=lambda: now)

    def away(*_: object) -> list[str]:
        raise OperationalError("SELECT 1", {}, ConnectionError("the database is away"))

    with monkeypatch.context() as outage:
        outage.setattr("services.api.reconciler.reap_expired", away)
        reconciler.run_round()
    let_lease_expire(engine, lease)
    reconciler.run_round()
    renew(engine, lease)
    now += 1_000_000
    reconciler.run_round()
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING


def test_audit_that_cannot_be_ended_does_not_keep_others_from_expiring(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    broken, _ = add_work(engine, expires_at=past)
    other, _ = add_work(engine, expires_at=past)
    cancel = recovery.cancel_open_steps

    def break_down(session: Session, audit_id: str) -> None:
        if audit_id == broken:
            raise ValueError("something about this audit")
        cancel(session, audit_id)

    monkeypatch.setattr(recovery, "cancel_open_steps", break_down)
    Reconciler(engine, Settings()).run_round()
    assert audit_of(engine, broken).status is AuditStatus.QUEUED
    assert audit_of(engine, other).status is AuditStatus.EXPIRED
