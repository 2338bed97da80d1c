"""What is lost goes back to the queue, what is overdue ends, and nothing is left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, update
from sqlmodel import col

from shared.audit_moves import request_cancel
from shared.database import database_now, reading, transaction
from shared.events import append_event
from shared.leases import LeaseLost, fenced, renew
from shared.outbox import relay
from shared.recovery import expire_overdue, finish_cancels, hand_over, reap_expired
from shared.states import AuditStatus, Cause, StepStatus
from shared.tables import Attempt, Audit, OutboxMessage
from tests.support.audits import (
    add_audit,
    add_step,
    add_work,
    attempt_of,
    audit_of,
    claimed,
    event_kinds,
    let_lease_expire,
    step_of,
)

MAX_DEATHS = 3


def past() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)


def test_reaping_leaves_living_leases_alone(engine: Engine) -> None:
    add_work(engine)
    lease = claimed(engine)
    assert reap_expired(engine, MAX_DEATHS) == []
    assert renew(engine, lease).status is AuditStatus.RUNNING


def test_reaper_passes_over_a_lease_that_a_writer_is_renewing(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    renewed, done = threading.Event(), threading.Event()

    def write() -> None:
        with fenced(engine, lease) as session:
            renewed.set()
            append_event(session, audit_id, "step.resumed")
            done.wait(timeout=0.2)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        renewed.wait()
        reaped = reap_expired(engine, MAX_DEATHS)
        done.set()
        writer.result()
    assert (reaped, event_kinds(engine, audit_id)[-1]) == ([], "step.resumed")


def test_step_of_a_lost_worker_waits_again_one_death_older(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    let_lease_expire(engine, claimed(engine))
    assert reap_expired(engine, MAX_DEATHS) == [audit_id]
    step = step_of(engine, step_id)
    assert (step.status, step.deaths, step.progress) == (StepStatus.PENDING, 1, 0.0)
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED
    assert claimed(engine).audit_id == audit_id


def test_attempt_of_a_lost_worker_names_its_cause(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    let_lease_expire(engine, lease)
    reap_expired(engine, MAX_DEATHS)
    attempt = attempt_of(engine, lease)
    assert attempt.ended_at is not None
    assert (attempt.cause, attempt.error) == (
        Cause.INFRASTRUCTURE,
        "worker worker-1 stopped renewing its lease",
    )
    assert "attempt.ended" in event_kinds(engine, audit_id)


def test_workers_are_told_again_of_the_audit_of_a_lost_worker(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    relay(engine, lambda kind, audit: None)
    let_lease_expire(engine, claimed(engine))
    reap_expired(engine, MAX_DEATHS)
    with reading(engine) as session:
        unsent = select(col(OutboxMessage.audit_id)).where(col(OutboxMessage.sent_at).is_(None))
        assert list(session.execute(unsent).scalars()) == [audit_id]


def test_audit_goes_on_with_its_other_worker_when_one_is_lost(engine: Engine) -> None:
    audit_id = add_audit(engine)
    lost_step, other_step = (add_step(engine, audit_id, position) for position in range(2))
    lost, other = claimed(engine, "worker-1"), claimed(engine, "worker-2")
    let_lease_expire(engine, lost)
    reap_expired(engine, MAX_DEATHS)
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING
    assert step_of(engine, lost_step).status is StepStatus.PENDING
    assert step_of(engine, other_step).status is StepStatus.RUNNING
    assert renew(engine, other).status is AuditStatus.RUNNING


def test_steps_of_other_audits_do_not_die_with_a_lost_worker(engine: Engine) -> None:
    add_work(engine, priority=1)
    _, other_step = add_work(engine)
    lost = claimed(engine)
    claimed(engine)
    let_lease_expire(engine, lost)
    reap_expired(engine, MAX_DEATHS)
    assert step_of(engine, other_step).status is StepStatus.RUNNING


def test_audit_ends_when_its_only_step_has_died_too_often(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    for _ in range(MAX_DEATHS):
        let_lease_expire(engine, claimed(engine))
        reap_expired(engine, MAX_DEATHS)
    assert step_of(engine, step_id).status is StepStatus.FAILED
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.cause) == (AuditStatus.FAILED, Cause.INFRASTRUCTURE)
    assert "died 3 times" in (audit.error or "")


def test_step_that_is_handed_over_has_not_died(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    lease = claimed(engine)
    with fenced(engine, lease) as session:
        hand_over(session, lease, "its worker was stopped")
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.PENDING, 0)
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED
    assert attempt_of(engine, lease).cause is None
    with pytest.raises(LeaseLost):
        renew(engine, lease)


def test_two_reapers_at_once_end_an_attempt_once(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    let_lease_expire(engine, claimed(engine))
    together = threading.Barrier(2)

    def reap(_: int) -> list[str]:
        together.wait()
        return reap_expired(engine, MAX_DEATHS)

    with ThreadPoolExecutor(2) as pool:
        reaped = [found for reaper in pool.map(reap, range(2)) for found in reaper]
    with reading(engine) as session:
        attempts = session.execute(select(func.count()).select_from(Attempt)).scalar_one()
    assert (reaped, attempts, event_kinds(engine, audit_id).count("audit.queued")) == ([audit_id], 1, 1)


def test_audit_that_was_being_cancelled_ends_when_its_worker_is_lost(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    lease = claimed(engine)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    let_lease_expire(engine, lease)
    reap_expired(engine, MAX_DEATHS)
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED
    assert step_of(engine, step_id).status is StepStatus.CANCELLED


def test_cancel_that_no_worker_carries_out_is_carried_out_without_it(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    lease = claimed(engine)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    assert finish_cancels(engine, 25) == []
    with transaction(engine) as session:
        session.execute(update(Audit).values(cancel_requested_at=database_now(-26.0)))
    assert finish_cancels(engine, 25) == [audit_id]
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED
    assert step_of(engine, step_id).status is StepStatus.CANCELLED
    with pytest.raises(LeaseLost):
        renew(engine, lease)


def test_audit_that_nobody_took_in_time_expires(engine: Engine) -> None:
    audit_id, step_id = add_work(engine, expires_at=past())
    assert expire_overdue(engine) == [audit_id]
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.cause) == (AuditStatus.EXPIRED, Cause.TIMEOUT)
    assert "to queue" in (audit.error or "")
    assert step_of(engine, step_id).status is StepStatus.CANCELLED


def test_audit_that_runs_too_long_expires_and_its_worker_can_write_no_more(engine: Engine) -> None:
    audit_id, _ = add_work(engine, run_seconds=60)
    lease = claimed(engine)
    with transaction(engine) as session:
        session.execute(update(Audit).values(expires_at=database_now(-1.0)))
    assert expire_overdue(engine) == [audit_id]
    assert "60 seconds" in (audit_of(engine, audit_id).error or "")
    assert attempt_of(engine, lease).cause is Cause.TIMEOUT
    with pytest.raises(LeaseLost):
        renew(engine, lease)


def test_audit_with_time_left_does_not_expire(engine: Engine) -> None:
    add_work(engine, expires_at=datetime.now(UTC) + timedelta(minutes=1))
    add_work(engine)
    assert expire_overdue(engine) == []


def test_ended_audit_does_not_expire(engine: Engine) -> None:
    audit_id, _ = add_work(engine, expires_at=past())
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    assert expire_overdue(engine) == []
