"""A step goes where its state leads, and what waits for it goes on or is skipped."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update
from sqlmodel import col

from shared.audit_moves import lock_audit
from shared.database import database_now, reading, transaction
from shared.leases import Lease, fenced
from shared.states import STEP_TRANSITIONS, Cause, StepKind, StepStatus
from shared.step_moves import (
    IllegalStepMove,
    have_computed_again,
    held_step,
    move_step,
    put_back,
    put_off,
    settle,
    step_died,
    wake_twins,
)
from shared.tables import OutboxMessage, Step
from tests.support.audits import CODE, add_audit, add_step, add_work, claimed, end_step, event_kinds, step_of


def settled(engine: Engine, audit_id: str) -> None:
    with transaction(engine) as session:
        lock_audit(session, audit_id)
        settle(session, audit_id)


def die(engine: Engine, lease: Lease) -> None:
    with fenced(engine, lease) as session:
        lock_audit(session, lease.audit_id)
        step = held_step(session, lease)
        assert step is not None
        step_died(session, step, max_deaths=3, cause=Cause.INFRASTRUCTURE, error="killed")


def seconds_until_ready(engine: Engine, step_id: str) -> float:
    with reading(engine) as session:
        query = select(col(Step.ready_at), database_now().label("now")).where(col(Step.id) == step_id)
        row = session.execute(query).one()
    waited: timedelta = row.ready_at - row.now
    return waited.total_seconds()


@pytest.mark.parametrize(
    ("current", "wanted"),
    [pair for pair in itertools.product(StepStatus, StepStatus) if pair[1] not in STEP_TRANSITIONS[pair[0]]],
)
def test_every_illegal_move_is_refused(engine: Engine, current: StepStatus, wanted: StepStatus) -> None:
    step_id = add_step(engine, add_audit(engine), status=current)
    with pytest.raises(IllegalStepMove), transaction(engine) as session:
        move_step(session, step_id, wanted)
    assert step_of(engine, step_id).status is current


@pytest.mark.parametrize(
    ("current", "wanted"),
    [(current, wanted) for current, following in STEP_TRANSITIONS.items() for wanted in following],
)
def test_every_legal_move_is_made(engine: Engine, current: StepStatus, wanted: StepStatus) -> None:
    step_id = add_step(engine, add_audit(engine), status=current)
    with transaction(engine) as session:
        session.execute(update(Step).values(ready_at=database_now(-1.0)))
        move_step(session, step_id, wanted)
    assert step_of(engine, step_id).status is wanted


def test_step_of_another_attempt_is_not_moved(engine: Engine) -> None:
    _, step_id = add_work(engine)
    claimed(engine)
    with pytest.raises(IllegalStepMove), transaction(engine) as session:
        move_step(session, step_id, StepStatus.SUCCEEDED, held_by="f" * 32)


def test_step_becomes_ready_when_all_it_needs_has_succeeded(engine: Engine) -> None:
    audit_id = add_audit(engine)
    done = add_step(engine, audit_id, 0, status=StepStatus.SUCCEEDED)
    running = add_step(engine, audit_id, 1, status=StepStatus.RUNNING)
    waits = add_step(engine, audit_id, 2, needs=[done, running])
    ready = add_step(engine, audit_id, 3, needs=[done])
    settled(engine, audit_id)
    assert step_of(engine, waits).ready_at is None
    assert step_of(engine, ready).ready_at is not None


def test_what_needs_a_failed_step_is_skipped_and_what_needs_that_too(engine: Engine) -> None:
    audit_id = add_audit(engine)
    failed = add_step(engine, audit_id, 0, status=StepStatus.FAILED)
    edit = add_step(engine, audit_id, 1, needs=[failed])
    tune = add_step(engine, audit_id, 2, needs=[edit])
    settled(engine, audit_id)
    assert [step_of(engine, step).status for step in (edit, tune)] == [StepStatus.SKIPPED] * 2
    assert event_kinds(engine, audit_id).count("step.skipped") == 2


def test_analysis_runs_when_all_has_ended_however_it_ended(engine: Engine) -> None:
    audit_id = add_audit(engine)
    ended = [
        add_step(engine, audit_id, position, status=status)
        for position, status in enumerate((StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.SKIPPED))
    ]
    analyse = add_step(engine, audit_id, 3, kind=StepKind.ANALYSE, needs=ended)
    settled(engine, audit_id)
    assert step_of(engine, analyse).ready_at is not None


def test_settling_twice_changes_nothing(engine: Engine) -> None:
    audit_id = add_audit(engine)
    done = add_step(engine, audit_id, 0, status=StepStatus.SUCCEEDED)
    ready = add_step(engine, audit_id, 1, needs=[done])
    settled(engine, audit_id)
    first = step_of(engine, ready).ready_at
    settled(engine, audit_id)
    assert step_of(engine, ready).ready_at == first


def test_step_whose_surroundings_are_away_waits_ever_longer_but_does_not_die(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    for expected in (100, 400, 600, 600):
        lease = claimed(engine)
        with fenced(engine, lease) as session:
            lock_audit(session, audit_id)
            step = held_step(session, lease)
            assert step is not None
            put_off(session, step, "the hub is away", 100)
        assert expected - 10 < seconds_until_ready(engine, step_id) <= expected
        with transaction(engine) as session:
            session.execute(update(Step).values(ready_at=database_now(-1.0)))
    assert step_of(engine, step_id).deaths == 0
    assert event_kinds(engine, audit_id).count("step.delayed") == 4


def test_step_that_dies_too_often_fails_with_its_cause(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    for _ in range(3):
        die(engine, claimed(engine))
    step = step_of(engine, step_id)
    assert (step.status, step.cause, step.deaths) == (StepStatus.FAILED, Cause.INFRASTRUCTURE, 3)
    assert step.error == "died 3 times; the last time: killed"
    assert step.finished_at is not None
    assert event_kinds(engine, audit_id)[-1] == "step.failed"


def test_step_that_died_shows_the_progress_of_its_checkpoint(engine: Engine) -> None:
    step_id = add_step(
        engine,
        add_audit(engine),
        code_version=CODE,
        progress=0.6,
        checkpoint="c",
        checkpoint_sha256="c",
        checkpoint_progress=0.4,
    )
    die(engine, claimed(engine))
    assert step_of(engine, step_id).progress == 0.4


def test_step_with_a_damaged_artifact_is_computed_again_before_what_needs_it(engine: Engine) -> None:
    audit_id = add_audit(engine)
    edit = add_step(engine, audit_id, 0, artifact="a", artifact_sha256="a", source_step_id=None)
    claimed_edit = claimed(engine)
    end_step(engine, claimed_edit, artifact="a", artifact_sha256="a")
    tune, other = (add_step(engine, audit_id, position, needs=[edit]) for position in (1, 2))
    settled(engine, audit_id)
    lease = claimed(engine)
    with fenced(engine, lease) as session:
        lock_audit(session, audit_id)
        held = held_step(session, lease)
        assert held is not None
        assert held.id == tune
        have_computed_again(session, edit, held, "it does not have its hash")
    damaged = step_of(engine, edit)
    assert (damaged.status, damaged.artifact, damaged.damages) == (StepStatus.PENDING, None, 1)
    assert damaged.ready_at is not None
    for step_id in (tune, other):
        step = step_of(engine, step_id)
        assert (step.status, step.ready_at, step.deaths) == (StepStatus.PENDING, None, 0)
    with fenced(engine, lease) as session:
        lock_audit(session, audit_id)
        move_step(session, edit, StepStatus.RUNNING, lease_token=lease.token)
    end_step(engine, lease)
    assert step_of(engine, tune).ready_at is not None


def test_second_worker_that_finds_the_same_damage_only_waits(engine: Engine) -> None:
    audit_id = add_audit(engine)
    edit = add_step(engine, audit_id, 0, status=StepStatus.SUCCEEDED)
    for position in (1, 2):
        add_step(engine, audit_id, position, needs=[edit])
    settled(engine, audit_id)
    for lease in (claimed(engine, "worker-1"), claimed(engine, "worker-2")):
        with fenced(engine, lease) as session:
            lock_audit(session, audit_id)
            held = held_step(session, lease)
            assert held is not None
            have_computed_again(session, edit, held, "it is missing")
    assert step_of(engine, edit).damages == 1
    assert event_kinds(engine, audit_id).count("step.damaged") == 1


def test_worker_that_finds_the_damage_when_the_step_has_failed_meanwhile_is_not_left_waiting(
    engine: Engine,
) -> None:
    audit_id = add_audit(engine)
    edit = add_step(engine, audit_id, 0, status=StepStatus.SUCCEEDED)
    tune = add_step(engine, audit_id, 1, needs=[edit])
    analyse = add_step(engine, audit_id, 2, kind=StepKind.ANALYSE, needs=[edit, tune])
    settled(engine, audit_id)
    lease = claimed(engine)
    with transaction(engine) as session:
        session.execute(update(Step).where(col(Step.id) == edit).values(status=StepStatus.FAILED))
    with fenced(engine, lease) as session:
        lock_audit(session, audit_id)
        held = held_step(session, lease)
        assert held is not None
        have_computed_again(session, edit, held, "it is missing")
    assert step_of(engine, tune).status is StepStatus.SKIPPED
    assert step_of(engine, analyse).ready_at is not None


def two_tunings_at_work(engine: Engine) -> tuple[str, str, tuple[Lease, Lease]]:
    """An edit that has succeeded, and two workers at tunings of it; audit, edit and leases."""
    audit_id = add_audit(engine)
    edit = add_step(engine, audit_id, 0, status=StepStatus.SUCCEEDED, progress=1.0)
    for position in (1, 2):
        add_step(engine, audit_id, position, needs=[edit])
    settled(engine, audit_id)
    return audit_id, edit, (claimed(engine, "worker-1"), claimed(engine, "worker-2"))


def find_damage(engine: Engine, lease: Lease, damaged_id: str) -> str:
    """Have the step at hand find what it needs damaged; its id."""
    with fenced(engine, lease) as session:
        lock_audit(session, lease.audit_id)
        held = held_step(session, lease)
        assert held is not None
        have_computed_again(session, damaged_id, held, "it is missing")
        return held.id


def test_damaged_step_shows_that_nothing_of_it_is_left(engine: Engine) -> None:
    _, edit, (lease, _) = two_tunings_at_work(engine)
    find_damage(engine, lease, edit)
    assert step_of(engine, edit).progress == 0.0


def test_step_that_is_put_back_waits_for_what_was_found_damaged_meanwhile(engine: Engine) -> None:
    _, edit, (lease, other) = two_tunings_at_work(engine)
    find_damage(engine, lease, edit)
    with fenced(engine, other) as session:
        lock_audit(session, other.audit_id)
        held = held_step(session, other)
        assert held is not None
        put_back(session, held)
    put_back_step = step_of(engine, held.id)
    assert (put_back_step.status, put_back_step.ready_at) == (StepStatus.PENDING, None)


def test_step_whose_damaged_input_could_not_be_computed_again_is_skipped(engine: Engine) -> None:
    _, edit, (lease, other) = two_tunings_at_work(engine)
    find_damage(engine, lease, edit)
    with fenced(engine, lease) as session:
        lock_audit(session, lease.audit_id)
        move_step(session, edit, StepStatus.RUNNING, lease_token=lease.token)
    end_step(engine, lease, StepStatus.FAILED)
    assert step_of(engine, find_damage(engine, other, edit)).status is StepStatus.SKIPPED


def test_audits_that_waited_for_an_identical_step_are_woken(engine: Engine) -> None:
    first, second = add_audit(engine), add_audit(engine)
    for audit_id in (first, second):
        add_step(engine, audit_id, key="k" * 64, code_version=CODE)
    with transaction(engine) as session:
        for message in session.execute(select(OutboxMessage)).scalars():
            message.sent_at = session.execute(select(database_now())).scalar_one()
    lease = claimed(engine)
    with fenced(engine, lease) as session:
        lock_audit(session, first)
        held = held_step(session, lease)
        assert held is not None
        move_step(session, held.id, StepStatus.SUCCEEDED)
        wake_twins(session, held)
    with reading(engine) as session:
        unsent = select(col(OutboxMessage.audit_id)).where(col(OutboxMessage.sent_at).is_(None))
        assert list(session.execute(unsent).scalars()) == [second]
