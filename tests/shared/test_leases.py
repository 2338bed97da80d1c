"""A lease fences writes: who has been replaced can write nothing, who is merely late may go on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, update
from sqlmodel import col

from shared.audit_moves import request_cancel
from shared.database import database_now, transaction
from shared.events import append_event
from shared.leases import LeaseLost, fenced, renew
from shared.recovery import leave, reap_expired
from shared.states import AuditStatus
from shared.tables import Attempt, Step
from tests.support.audits import (
    add_audit,
    add_step,
    add_work,
    attempt_of,
    claimed,
    end_step,
    event_kinds,
    let_lease_expire,
)

MAX_DEATHS = 3


def test_fenced_write_is_kept_while_the_attempt_is_open(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    with fenced(engine, claimed(engine)) as session:
        append_event(session, audit_id, "step.resumed")
    assert event_kinds(engine, audit_id)[-1] == "step.resumed"


def test_fenced_write_that_raises_leaves_nothing(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    before = event_kinds(engine, audit_id)

    def write_and_fail() -> None:
        with fenced(engine, lease) as session:
            append_event(session, audit_id, "step.resumed")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert event_kinds(engine, audit_id) == before


def test_fenced_renews_the_lease(engine: Engine) -> None:
    add_work(engine)
    lease = claimed(engine)
    with transaction(engine) as session:
        session.execute(update(Attempt).values(lease_expires_at=database_now(60.0)))
    before = attempt_of(engine, lease).lease_expires_at
    with fenced(engine, lease):
        pass
    assert attempt_of(engine, lease).lease_expires_at > before + timedelta(minutes=30)


def test_late_worker_whom_nobody_has_replaced_may_go_on(engine: Engine) -> None:
    add_work(engine)
    lease = claimed(engine)
    let_lease_expire(engine, lease)
    assert renew(engine, lease).status is AuditStatus.RUNNING
    assert reap_expired(engine, MAX_DEATHS) == []


def test_zombie_worker_cannot_write_after_its_lease_is_taken_over(engine: Engine) -> None:
    add_work(engine)
    zombie = claimed(engine)
    let_lease_expire(engine, zombie)
    reap_expired(engine, MAX_DEATHS)
    successor = claimed(engine)
    with pytest.raises(LeaseLost), fenced(engine, zombie):
        pytest.fail("the block of a lost lease must not run")
    assert renew(engine, successor).status is AuditStatus.RUNNING


def test_worker_that_left_cannot_write(engine: Engine) -> None:
    add_work(engine)
    lease = claimed(engine)
    end_step(engine, lease)
    with fenced(engine, lease) as session:
        leave(session, lease)
    with pytest.raises(LeaseLost):
        renew(engine, lease)


def test_heartbeat_learns_of_a_cancel(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    assert renew(engine, lease).status is AuditStatus.CANCELLING


def test_heartbeat_tells_how_long_the_step_at_hand_has_been_silent(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    add_step(engine, audit_id, 1)
    lease = claimed(engine)
    assert renew(engine, lease).silent_seconds < 30
    with transaction(engine) as session:
        session.execute(update(Attempt).values(started_at=database_now(-900.0)))
        session.execute(
            update(Step).where(col(Step.id) == step_id).values(progressed_at=database_now(-600.0))
        )
    assert 600 <= renew(engine, lease).silent_seconds < 660


def test_worker_between_two_steps_has_been_silent_since_the_last_one_ended(engine: Engine) -> None:
    audit_id = add_audit(engine)
    add_step(engine, audit_id)
    add_step(engine, audit_id, 1)
    lease = claimed(engine)
    end_step(engine, lease)
    with transaction(engine) as session:
        session.execute(update(Attempt).values(started_at=database_now(-900.0)))
        session.execute(update(Step).values(progressed_at=database_now(-600.0)))
    assert renew(engine, lease).silent_seconds < 30
    with transaction(engine) as session:
        session.execute(update(Step).values(finished_at=database_now(-500.0)))
    assert 500 <= renew(engine, lease).silent_seconds < 560
