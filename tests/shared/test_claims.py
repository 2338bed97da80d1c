"""Claims are exclusive and fair, and the same step is never at work twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from shared.audit_moves import request_cancel
from shared.claims import claim, key_under
from shared.database import database_now, reading, transaction
from shared.queue_order import claimable, queue_position, should_make_way
from shared.recovery import reap_expired
from shared.states import AuditStatus, StepStatus
from shared.step_moves import IllegalStepMove, move_step
from shared.tables import Attempt, Step
from tests.support.audits import (
    CODE,
    LONG_SECONDS,
    add_audit,
    add_step,
    add_work,
    attempt_of,
    audit_of,
    claimed,
    end_step,
    event_kinds,
    go_on,
    let_lease_expire,
    step_of,
)

MAX_DEATHS = 3
TURN_SECONDS = 300.0
SAME = "k" * 64


def nothing_to_claim(engine: Engine) -> bool:
    return claim(engine, "worker-9", LONG_SECONDS, CODE) is None


def test_claim_takes_nothing_from_an_empty_queue(engine: Engine) -> None:
    assert nothing_to_claim(engine)


def test_claim_takes_a_step_and_sets_the_audit_running(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    lease = claimed(engine)
    step = step_of(engine, step_id)
    assert (step.status, step.lease_token, step.ready_at) == (StepStatus.RUNNING, lease.token, None)
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING
    assert event_kinds(engine, audit_id)[1:] == ["attempt.started", "audit.running", "step.started"]


def test_claim_takes_the_highest_priority_then_the_oldest(engine: Engine) -> None:
    now = datetime.now(UTC)
    newer, _ = add_work(engine, created_at=now)
    older, _ = add_work(engine, created_at=now - timedelta(minutes=1))
    urgent, _ = add_work(engine, created_at=now, priority=5)
    assert [claimed(engine).audit_id for _ in range(3)] == [urgent, older, newer]


def test_submitters_take_turns_however_much_each_has_submitted(engine: Engine) -> None:
    now = datetime.now(UTC)
    for minute in range(3):
        add_work(engine, submitter="many", created_at=now - timedelta(minutes=10 - minute))
    late, _ = add_work(engine, submitter="late", created_at=now)
    served = []
    for _ in range(3):
        lease = claimed(engine)
        served.append(lease.audit_id)
        end_step(engine, lease)
        go_on(engine, lease)
    assert served[1] == late


def test_submitter_with_a_worker_waits_for_one_without(engine: Engine) -> None:
    now = datetime.now(UTC)
    big = add_audit(engine, submitter="big", created_at=now - timedelta(hours=1))
    for position in range(5):
        add_step(engine, big, position)
    small, _ = add_work(engine, submitter="small", created_at=now)
    assert [claimed(engine).audit_id for _ in range(3)] == [big, small, big]


def test_audits_of_one_submitter_take_turns_too(engine: Engine) -> None:
    now = datetime.now(UTC)
    big = add_audit(engine, created_at=now - timedelta(hours=1))
    for position in range(3):
        add_step(engine, big, position)
    lease = claimed(engine)
    small, _ = add_work(engine, created_at=now)
    assert claimed(engine, "worker-2").audit_id == small
    assert lease.audit_id == big


def test_steps_of_one_audit_are_taken_by_as_many_workers_as_there_are(engine: Engine) -> None:
    audit_id = add_audit(engine)
    steps = [add_step(engine, audit_id, position) for position in range(3)]
    leases = [claimed(engine, f"worker-{number}") for number in range(3)]
    assert {lease.audit_id for lease in leases} == {audit_id}
    assert [step_of(engine, step).lease_token for step in steps] == [lease.token for lease in leases]
    assert nothing_to_claim(engine)


def test_worker_goes_on_with_the_next_step_of_its_audit(engine: Engine) -> None:
    audit_id = add_audit(engine)
    first, second = (add_step(engine, audit_id, position) for position in range(2))
    lease = claimed(engine)
    assert go_on(engine, lease) == first  # it holds it, so it is given it again
    end_step(engine, lease)
    assert go_on(engine, lease) == second


def test_step_is_not_taken_before_its_wait_is_over(engine: Engine) -> None:
    _, step_id = add_work(engine)
    with transaction(engine) as session:
        session.execute(update(Step).values(ready_at=database_now(60.0)))
    assert nothing_to_claim(engine)
    with transaction(engine) as session:
        session.execute(update(Step).values(ready_at=database_now(-0.001)))
    lease = claimed(engine)
    assert step_of(engine, step_id).lease_token == lease.token


@pytest.mark.parametrize("status", [AuditStatus.CANCELLING, AuditStatus.CANCELLED, AuditStatus.EXPIRED])
def test_steps_of_an_audit_that_is_over_are_not_taken(engine: Engine, status: AuditStatus) -> None:
    add_step(engine, add_audit(engine, status=status))
    assert nothing_to_claim(engine)


def test_overdue_audit_is_left_to_expire(engine: Engine) -> None:
    add_work(engine, expires_at=datetime.now(UTC) - timedelta(seconds=5))
    assert nothing_to_claim(engine)


def test_identical_step_waits_while_its_twin_runs_elsewhere(engine: Engine) -> None:
    first, second = add_audit(engine), add_audit(engine)
    for audit_id in (first, second):
        add_step(engine, audit_id, key=SAME, code_version=CODE)
    lease = claimed(engine)
    assert nothing_to_claim(engine)
    end_step(engine, lease)
    assert claimed(engine).audit_id == second


def test_worker_passes_over_a_step_whose_twin_runs_elsewhere(engine: Engine) -> None:
    elsewhere, audit_id = add_audit(engine, priority=1), add_audit(engine)
    add_step(engine, elsewhere, key=SAME, code_version=CODE)
    add_step(engine, audit_id, 0)
    add_step(engine, audit_id, 1, key=SAME, code_version=CODE)
    third = add_step(engine, audit_id, 2)
    assert claimed(engine, "worker-2").audit_id == elsewhere
    lease = claimed(engine)
    end_step(engine, lease)
    assert go_on(engine, lease) == third


def test_database_itself_refuses_to_run_a_step_twice(engine: Engine) -> None:
    for _ in range(2):
        add_step(engine, add_audit(engine), key=SAME, code_version=CODE)
    claimed(engine)
    with pytest.raises(IntegrityError), transaction(engine) as session:
        session.execute(update(Step).values(status=StepStatus.RUNNING))


def test_every_step_is_claimed_exactly_once_by_workers_that_claim_at_once(engine: Engine) -> None:
    steps = {add_work(engine)[1] for _ in range(12)}
    together = threading.Barrier(4)

    def drain(worker: int) -> list[str]:
        together.wait()
        tokens = []
        while (lease := claim(engine, f"worker-{worker}", LONG_SECONDS, CODE)) is not None:
            tokens.append(lease.token)
        return tokens

    with ThreadPoolExecutor(4) as pool:
        tokens = [token for worker in pool.map(drain, range(4)) for token in worker]
    assert sorted(tokens) == sorted(str(step_of(engine, step).lease_token) for step in steps)


def test_twins_claimed_at_once_never_run_at_once(engine: Engine) -> None:
    for _ in range(8):
        add_step(engine, add_audit(engine), key=SAME, code_version=CODE)
    together = threading.Barrier(4)

    def take(worker: int) -> bool:
        together.wait()
        return claim(engine, f"worker-{worker}", LONG_SECONDS, CODE) is not None

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 1


def test_attempts_of_an_audit_are_numbered(engine: Engine) -> None:
    add_work(engine)
    numbers = []
    for _ in range(3):
        lease = claimed(engine)
        numbers.append(attempt_of(engine, lease).number)
        let_lease_expire(engine, lease)
        reap_expired(engine, 10)
    assert numbers == [1, 2, 3]


def test_audit_is_running_since_its_first_claim(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    first = claimed(engine)
    started_at = audit_of(engine, audit_id).started_at
    let_lease_expire(engine, first)
    reap_expired(engine, MAX_DEATHS)
    claimed(engine)
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.started_at) == (AuditStatus.RUNNING, started_at)


def test_first_claim_begins_the_time_to_run(engine: Engine) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    audit_id, _ = add_work(engine, expires_at=soon, run_seconds=7200)
    claimed(engine)
    expires_at = audit_of(engine, audit_id).expires_at
    assert expires_at is not None
    assert expires_at > soon + timedelta(hours=1)


def test_step_planned_under_other_code_gets_a_key_of_its_own(engine: Engine) -> None:
    step_id = add_step(engine, add_audit(engine), key=SAME, code_version="o" * 64)
    claimed(engine)
    step = step_of(engine, step_id)
    assert (step.key, step.code_version) == (key_under(CODE, SAME, []), CODE)


def test_step_saved_half_way_by_other_code_begins_anew(engine: Engine) -> None:
    audit_id = add_audit(engine)
    saved = {"checkpoint": "half-way", "checkpoint_sha256": "s" * 64, "checkpoint_progress": 0.5}
    theirs = add_step(engine, audit_id, 0, code_version="o" * 64, **saved)
    ours = add_step(engine, audit_id, 1, code_version=CODE, **saved)
    for _ in range(2):
        claimed(engine)
    assert step_of(engine, theirs).checkpoint_progress is None
    assert step_of(engine, ours).checkpoint_progress == 0.5


def test_step_on_top_of_what_other_code_made_gets_a_key_of_its_own(engine: Engine) -> None:
    audit_id = add_audit(engine)
    made = {"status": StepStatus.SUCCEEDED, "code_version": "o" * 64, "key": "e" * 64}
    edit = add_step(engine, audit_id, 0, **made)
    tune = add_step(engine, audit_id, 1, needs=[edit], key=SAME, code_version=CODE, ready_at=database_now())
    claimed(engine)
    assert step_of(engine, tune).key == key_under(CODE, SAME, ["e" * 64])


def test_step_on_top_of_what_other_code_made_goes_on_when_it_is_taken_again(engine: Engine) -> None:
    audit_id = add_audit(engine)
    edit = add_step(engine, audit_id, status=StepStatus.SUCCEEDED, code_version="o" * 64, key="e" * 64)
    tune = add_step(engine, audit_id, 1, needs=[edit], key=SAME, code_version=CODE, ready_at=database_now())
    let_lease_expire(engine, claimed(engine))
    with transaction(engine) as session:
        session.execute(update(Step).where(col(Step.id) == tune).values(checkpoint_progress=0.5))
    reap_expired(engine, MAX_DEATHS)
    claimed(engine)
    step = step_of(engine, tune)
    assert (step.key, step.checkpoint_progress) == (key_under(CODE, SAME, ["e" * 64]), 0.5)


def test_claim_of_a_step_that_was_put_off_meanwhile_takes_nothing(engine: Engine) -> None:
    _, step_id = add_work(engine)
    with transaction(engine) as session:
        session.execute(update(Step).values(ready_at=database_now(60.0)))
    with pytest.raises(IllegalStepMove), transaction(engine) as session:
        move_step(session, step_id, StepStatus.RUNNING)


def test_worker_makes_way_for_a_higher_priority_at_once(engine: Engine) -> None:
    add_work(engine)
    lease = claimed(engine)
    add_work(engine, priority=1)
    with reading(engine) as session:
        assert should_make_way(session, lease, TURN_SECONDS)


@pytest.mark.parametrize(("age_seconds", "makes_way"), [(10.0, False), (400.0, True)])
def test_worker_makes_way_for_its_equals_after_its_turn(
    engine: Engine, age_seconds: float, makes_way: bool
) -> None:
    add_work(engine)
    lease = claimed(engine)
    add_work(engine)
    with transaction(engine) as session:
        session.execute(
            update(Attempt)
            .where(col(Attempt.id) == lease.attempt_id)
            .values(started_at=database_now(-age_seconds))
        )
    with reading(engine) as session:
        assert should_make_way(session, lease, TURN_SECONDS) is makes_way


def test_worker_makes_way_for_nobody_when_nobody_waits(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    add_step(engine, audit_id, 1)
    lease = claimed(engine)
    add_work(engine, priority=-1)
    with transaction(engine) as session:
        session.execute(update(Attempt).values(started_at=database_now(-10 * TURN_SECONDS)))
    with reading(engine) as session:
        assert not should_make_way(session, lease, TURN_SECONDS)


def test_queue_positions_are_the_order_in_which_audits_are_claimed(engine: Engine) -> None:
    now = datetime.now(UTC)
    audits = [
        add_work(engine, submitter=submitter, created_at=now - timedelta(minutes=age), priority=priority)[0]
        for submitter, age, priority in [
            ("a", 9, 0), ("a", 8, 0), ("a", 7, 0), ("b", 6, 0), ("b", 5, 3), ("c", 4, 0),
        ]
    ]  # fmt: skip
    with reading(engine) as session:
        positions = {audit_id: queue_position(session, audit_id) for audit_id in audits}
    assert sorted(position for position in positions.values() if position) == [1, 2, 3, 4, 5, 6]
    claimed_in_order = []
    for _ in audits:
        lease = claimed(engine)
        claimed_in_order.append(lease.audit_id)
        end_step(engine, lease)
        go_on(engine, lease)
    assert positions[claimed_in_order[0]] == 1
    assert claimed_in_order[-1] == max(positions, key=lambda audit_id: positions[audit_id] or 0)


def test_claim_reads_nothing_of_what_has_ended(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return  # its planner reads whole tables as long as they are small
    query = claimable(col(Step.id)).limit(1).compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        plan = [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    read_whole = [line for line in plan if line.startswith("SCAN")]
    assert read_whole == ["SCAN attempt USING INDEX ix_attempt_open_lease_expires_at"]


def test_running_audit_has_no_place_in_the_queue(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    with reading(engine) as session:
        assert queue_position(session, audit_id) is None


def test_cancel_and_claim_at_once_leave_one_of_two_outcomes(engine: Engine) -> None:
    outcomes = set()
    for _ in range(10):
        audit_id, _ = add_work(engine)
        together = threading.Barrier(2)

        def cancel(audit_id: str = audit_id, together: threading.Barrier = together) -> AuditStatus:
            together.wait()
            with transaction(engine) as session:
                return request_cancel(session, audit_id)

        def take(together: threading.Barrier = together) -> bool:
            together.wait()
            return claim(engine, "worker-1", LONG_SECONDS, CODE) is not None

        with ThreadPoolExecutor(2) as pool:
            cancelled, taken = pool.submit(cancel), pool.submit(take)
            outcomes.add((cancelled.result(), taken.result()))
    assert outcomes <= {(AuditStatus.CANCELLED, False), (AuditStatus.CANCELLING, True)}
