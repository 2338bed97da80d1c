"""Claims are exclusive, leases fence writes, and no audit is left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlmodel import col

from shared.database import database_now, reading, transaction
from shared.events import append_event
from shared.leases import (
    Lease,
    LeaseLost,
    claim_audit,
    end_attempt,
    fenced,
    move_audit,
    reap_expired,
    renew,
    request_cancel,
    return_to_queue,
)
from shared.outbox import relay
from shared.states import AuditStatus, Cause, IllegalTransition, StepStatus
from shared.tables import Attempt, Audit, Event, OutboxMessage, Step
from tests.support.audits import add_audit, add_step

LONG = 3600.0
MAX_DEATHS = 3


def claim(engine: Engine) -> Lease:
    lease = claim_audit(engine, "worker-1", LONG)
    assert lease is not None
    return lease


def let_expire(engine: Engine, lease: Lease) -> None:
    with transaction(engine) as session:
        session.execute(
            update(Attempt)
            .where(col(Attempt.id) == lease.attempt_id)
            .values(lease_expires_at=database_now(-1.0))
        )


def run_step(engine: Engine, step_id: str, lease: Lease) -> None:
    with fenced(engine, lease) as session:
        session.execute(
            update(Step)
            .where(col(Step.id) == step_id)
            .values(status=StepStatus.RUNNING, lease_token=lease.token, progress=0.5)
        )


def audit_of(engine: Engine, audit_id: str) -> Audit:
    with reading(engine) as session:
        return session.get_one(Audit, audit_id)


def step_of(engine: Engine, step_id: str) -> Step:
    with reading(engine) as session:
        return session.get_one(Step, step_id)


def attempt_of(engine: Engine, lease: Lease) -> Attempt:
    with reading(engine) as session:
        return session.get_one(Attempt, lease.attempt_id)


def kinds(engine: Engine, audit_id: str) -> list[str]:
    with reading(engine) as session:
        query = select(col(Event.kind)).where(col(Event.audit_id) == audit_id)
        return list(session.execute(query.order_by(col(Event.sequence))).scalars())


def test_claim_takes_nothing_from_an_empty_queue(engine: Engine) -> None:
    assert claim_audit(engine, "worker-1", LONG) is None


def test_claim_takes_the_highest_priority_then_the_oldest(engine: Engine) -> None:
    now = datetime.now(UTC)
    newer = add_audit(engine, created_at=now)
    older = add_audit(engine, created_at=now - timedelta(minutes=1))
    urgent = add_audit(engine, created_at=now, priority=5)
    assert [claim(engine).audit_id for _ in range(3)] == [urgent, older, newer]


def test_claimed_audit_is_running_since_its_first_claim(engine: Engine) -> None:
    audit_id = add_audit(engine)
    first = claim(engine)
    started_at = audit_of(engine, audit_id).started_at
    let_expire(engine, first)
    reap_expired(engine, MAX_DEATHS)
    claim(engine)
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.started_at) == (AuditStatus.RUNNING, started_at)


def test_every_audit_is_claimed_exactly_once_by_workers_that_claim_at_once(engine: Engine) -> None:
    audits = {add_audit(engine) for _ in range(12)}
    together = threading.Barrier(4)

    def drain(worker: int) -> list[str]:
        together.wait()
        claimed = []
        while (lease := claim_audit(engine, f"worker-{worker}", LONG)) is not None:
            claimed.append(lease.audit_id)
        return claimed

    with ThreadPoolExecutor(4) as pool:
        claimed = [audit_id for worker in pool.map(drain, range(4)) for audit_id in worker]
    assert sorted(claimed) == sorted(audits)


def test_attempts_of_an_audit_are_numbered(engine: Engine) -> None:
    add_audit(engine)
    numbers = []
    for _ in range(3):
        lease = claim(engine)
        numbers.append(attempt_of(engine, lease).number)
        let_expire(engine, lease)
        reap_expired(engine, MAX_DEATHS)
    assert numbers == [1, 2, 3]


def test_fenced_write_is_kept_while_the_lease_holds(engine: Engine) -> None:
    audit_id = add_audit(engine)
    with fenced(engine, claim(engine)) as session:
        append_event(session, audit_id, "step.started")
    assert kinds(engine, audit_id)[-1] == "step.started"


def test_fenced_write_that_raises_leaves_nothing(engine: Engine) -> None:
    audit_id = add_audit(engine)
    lease = claim(engine)
    before = kinds(engine, audit_id)

    def write_and_fail() -> None:
        with fenced(engine, lease) as session:
            append_event(session, audit_id, "step.started")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert kinds(engine, audit_id) == before


def test_fenced_renews_the_lease(engine: Engine) -> None:
    add_audit(engine)
    lease = claim(engine)
    with transaction(engine) as session:
        session.execute(update(Attempt).values(lease_expires_at=database_now(60.0)))
    before = attempt_of(engine, lease).lease_expires_at
    with fenced(engine, lease):
        pass
    assert attempt_of(engine, lease).lease_expires_at > before + timedelta(minutes=30)


def test_worker_whose_lease_ran_out_cannot_write(engine: Engine) -> None:
    add_audit(engine)
    lease = claim(engine)
    let_expire(engine, lease)
    with pytest.raises(LeaseLost), fenced(engine, lease):
        pytest.fail("the block of a lost lease must not run")


def test_zombie_worker_cannot_write_after_its_lease_is_taken_over(engine: Engine) -> None:
    add_audit(engine)
    zombie = claim(engine)
    let_expire(engine, zombie)
    reap_expired(engine, MAX_DEATHS)
    successor = claim(engine)
    with pytest.raises(LeaseLost):
        renew(engine, zombie)
    assert renew(engine, successor) is AuditStatus.RUNNING


def test_reaper_passes_over_a_lease_that_a_writer_is_renewing(engine: Engine) -> None:
    audit_id = add_audit(engine)
    lease = claim(engine)
    renewed, done = threading.Event(), threading.Event()

    def write() -> None:
        with fenced(engine, lease) as session:
            renewed.set()
            append_event(session, audit_id, "step.succeeded")
            done.wait(timeout=0.2)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        renewed.wait()
        reaped = reap_expired(engine, MAX_DEATHS)
        done.set()
        writer.result()
    assert (reaped, kinds(engine, audit_id)[-1]) == ([], "step.succeeded")


def test_worker_that_ended_its_attempt_cannot_write(engine: Engine) -> None:
    add_audit(engine)
    lease = claim(engine)
    with fenced(engine, lease) as session:
        end_attempt(session, lease)
    with pytest.raises(LeaseLost):
        renew(engine, lease)


def test_heartbeat_learns_of_a_cancel(engine: Engine) -> None:
    audit_id = add_audit(engine)
    lease = claim(engine)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    assert renew(engine, lease) is AuditStatus.CANCELLING


def test_reaping_leaves_living_leases_alone(engine: Engine) -> None:
    add_audit(engine)
    lease = claim(engine)
    assert reap_expired(engine, MAX_DEATHS) == []
    assert renew(engine, lease) is AuditStatus.RUNNING


def test_audit_of_a_lost_worker_can_be_claimed_again(engine: Engine) -> None:
    audit_id = add_audit(engine)
    let_expire(engine, claim(engine))
    assert reap_expired(engine, MAX_DEATHS) == [audit_id]
    assert claim(engine).audit_id == audit_id


def test_workers_are_told_again_of_the_audit_of_a_lost_worker(engine: Engine) -> None:
    audit_id = add_audit(engine)
    relay(engine, lambda kind, audit: None)
    let_expire(engine, claim(engine))
    reap_expired(engine, MAX_DEATHS)
    with reading(engine) as session:
        unsent = session.execute(
            select(col(OutboxMessage.audit_id)).where(col(OutboxMessage.sent_at).is_(None))
        )
        assert list(unsent.scalars()) == [audit_id]


def test_attempt_of_a_lost_worker_names_its_cause(engine: Engine) -> None:
    add_audit(engine)
    lease = claim(engine)
    let_expire(engine, lease)
    reap_expired(engine, MAX_DEATHS)
    attempt = attempt_of(engine, lease)
    assert (attempt.cause, attempt.error) == (
        Cause.INFRASTRUCTURE,
        "worker worker-1 stopped renewing its lease",
    )


def test_running_step_of_a_lost_worker_waits_again_one_death_older(engine: Engine) -> None:
    audit_id = add_audit(engine)
    step_id = add_step(engine, audit_id)
    lease = claim(engine)
    run_step(engine, step_id, lease)
    let_expire(engine, lease)
    reap_expired(engine, MAX_DEATHS)
    step = step_of(engine, step_id)
    assert (step.status, step.deaths, step.progress, step.lease_token) == (StepStatus.PENDING, 1, 0.0, None)


def test_step_that_keeps_killing_its_worker_fails_for_good(engine: Engine) -> None:
    audit_id = add_audit(engine)
    step_id = add_step(engine, audit_id)
    for _ in range(MAX_DEATHS):
        lease = claim(engine)
        run_step(engine, step_id, lease)
        let_expire(engine, lease)
        reap_expired(engine, MAX_DEATHS)
    step = step_of(engine, step_id)
    assert (step.status, step.cause) == (StepStatus.FAILED, Cause.INFRASTRUCTURE)


def test_step_that_was_stopped_on_purpose_has_not_died(engine: Engine) -> None:
    audit_id = add_audit(engine)
    step_id = add_step(engine, audit_id)
    lease = claim(engine)
    run_step(engine, step_id, lease)
    with fenced(engine, lease) as session:
        attempt = session.get_one(Attempt, lease.attempt_id)
        return_to_queue(session, attempt, None, None, "stopped as asked")
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.PENDING, 0)


def test_steps_of_other_audits_do_not_die_with_a_lost_worker(engine: Engine) -> None:
    lost, other = add_audit(engine, priority=1), add_audit(engine)
    step_id = add_step(engine, other)
    lease = claim(engine)
    assert lease.audit_id == lost
    run_step(engine, step_id, claim(engine))
    let_expire(engine, lease)
    reap_expired(engine, MAX_DEATHS)
    assert step_of(engine, step_id).status is StepStatus.RUNNING


def test_cancel_of_a_queued_audit_ends_it_at_once(engine: Engine) -> None:
    audit_id = add_audit(engine)
    step_id = add_step(engine, audit_id)
    with transaction(engine) as session:
        assert request_cancel(session, audit_id) is AuditStatus.CANCELLED
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.cause) == (AuditStatus.CANCELLED, Cause.USER)
    assert audit.finished_at is not None
    assert step_of(engine, step_id).status is StepStatus.CANCELLED


def test_cancel_of_a_running_audit_asks_its_worker(engine: Engine) -> None:
    audit_id = add_audit(engine)
    claim(engine)
    with transaction(engine) as session:
        assert request_cancel(session, audit_id) is AuditStatus.CANCELLING
    assert audit_of(engine, audit_id).finished_at is None


def test_second_cancel_says_nothing_new(engine: Engine) -> None:
    audit_id = add_audit(engine)
    claim(engine)
    for _ in range(2):
        with transaction(engine) as session:
            request_cancel(session, audit_id)
    assert kinds(engine, audit_id).count("audit.cancelling") == 1


def test_cancel_of_an_ended_audit_is_refused(engine: Engine) -> None:
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    with pytest.raises(IllegalTransition), transaction(engine) as session:
        request_cancel(session, audit_id)


def test_audit_that_was_being_cancelled_ends_when_its_worker_is_lost(engine: Engine) -> None:
    audit_id = add_audit(engine)
    step_id = add_step(engine, audit_id)
    lease = claim(engine)
    run_step(engine, step_id, lease)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    let_expire(engine, lease)
    reap_expired(engine, MAX_DEATHS)
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED
    assert step_of(engine, step_id).status is StepStatus.CANCELLED


@pytest.mark.parametrize("wanted", [AuditStatus.SUCCEEDED, AuditStatus.RUNNING])
def test_audit_that_is_being_cancelled_cannot_go_on(engine: Engine, wanted: AuditStatus) -> None:
    audit_id = add_audit(engine, status=AuditStatus.CANCELLING)
    with pytest.raises(IllegalTransition), transaction(engine) as session:
        move_audit(session, audit_id, wanted)


def test_failed_audit_keeps_its_cause_and_its_error(engine: Engine) -> None:
    audit_id = add_audit(engine)
    claim(engine)
    with transaction(engine) as session:
        move_audit(session, audit_id, AuditStatus.FAILED, cause=Cause.MODEL, error="weights are not finite")
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.cause, audit.error) == (
        AuditStatus.FAILED,
        Cause.MODEL,
        "weights are not finite",
    )


def test_cancel_and_claim_at_once_leave_one_of_two_outcomes(engine: Engine) -> None:
    outcomes = set()
    for _ in range(10):
        audit_id = add_audit(engine)
        together = threading.Barrier(2)

        def cancel(audit_id: str = audit_id, together: threading.Barrier = together) -> Any:
            together.wait()
            with transaction(engine) as session:
                return request_cancel(session, audit_id)

        def take(together: threading.Barrier = together) -> Any:
            together.wait()
            return claim_audit(engine, "worker-1", LONG)

        with ThreadPoolExecutor(2) as pool:
            cancelled, lease = pool.submit(cancel), pool.submit(take)
            outcomes.add((cancelled.result(), lease.result() is not None))
    assert outcomes <= {(AuditStatus.CANCELLED, False), (AuditStatus.CANCELLING, True)}


def test_two_reapers_at_once_end_an_attempt_once(engine: Engine) -> None:
    audit_id = add_audit(engine)
    let_expire(engine, claim(engine))
    together = threading.Barrier(2)

    def reap(_: int) -> list[str]:
        together.wait()
        return reap_expired(engine, MAX_DEATHS)

    with ThreadPoolExecutor(2) as pool:
        reaped = [found for reaper in pool.map(reap, range(2)) for found in reaper]
    with reading(engine) as session:
        attempts = session.execute(select(func.count()).select_from(Attempt)).scalar_one()
    assert (reaped, attempts, kinds(engine, audit_id).count("audit.queued")) == ([audit_id], 1, 1)
