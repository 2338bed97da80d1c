"""An audit goes where its state leads and nowhere else, and ends as its steps have."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import Engine

from shared.audit_moves import move_audit, request_cancel
from shared.database import transaction
from shared.states import (
    AUDIT_TRANSITIONS,
    AuditStatus,
    Cause,
    IllegalTransition,
    StepKind,
    StepStatus,
    Verdict,
)
from tests.support.audits import (
    add_audit,
    add_step,
    add_work,
    audit_of,
    claimed,
    end_step,
    event_kinds,
    go_on,
    step_of,
)


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        pair
        for pair in itertools.product(AuditStatus, AuditStatus)
        if pair[1] not in AUDIT_TRANSITIONS[pair[0]]
    ],
)
def test_every_illegal_transition_is_refused(
    engine: Engine, current: AuditStatus, wanted: AuditStatus
) -> None:
    audit_id = add_audit(engine, status=current)
    before = event_kinds(engine, audit_id)
    with pytest.raises(IllegalTransition), transaction(engine) as session:
        move_audit(session, audit_id, wanted)
    assert audit_of(engine, audit_id).status is current
    assert event_kinds(engine, audit_id) == before


@pytest.mark.parametrize(
    ("current", "wanted"),
    [(current, wanted) for current, following in AUDIT_TRANSITIONS.items() for wanted in following],
)
def test_every_legal_transition_is_made_and_told(
    engine: Engine, current: AuditStatus, wanted: AuditStatus
) -> None:
    audit_id = add_audit(engine, status=current)
    with transaction(engine) as session:
        move_audit(session, audit_id, wanted)
    audit = audit_of(engine, audit_id)
    assert audit.status is wanted
    assert (audit.finished_at is not None) is wanted.is_terminal
    assert event_kinds(engine, audit_id)[-1] == f"audit.{wanted}"


def test_failed_audit_keeps_its_cause_and_its_error(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    with transaction(engine) as session:
        move_audit(session, audit_id, AuditStatus.FAILED, cause=Cause.MODEL, error="weights are not finite")
    audit = audit_of(engine, audit_id)
    assert (audit.cause, audit.error) == (Cause.MODEL, "weights are not finite")


def test_cancel_of_a_queued_audit_ends_it_at_once(engine: Engine) -> None:
    audit_id, step_id = add_work(engine)
    with transaction(engine) as session:
        assert request_cancel(session, audit_id) is AuditStatus.CANCELLED
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.cause) == (AuditStatus.CANCELLED, Cause.USER)
    assert step_of(engine, step_id).status is StepStatus.CANCELLED


def test_cancel_of_a_running_audit_asks_its_workers(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    with transaction(engine) as session:
        assert request_cancel(session, audit_id) is AuditStatus.CANCELLING
    audit = audit_of(engine, audit_id)
    assert audit.finished_at is None
    assert audit.cancel_requested_at is not None


def test_second_cancel_says_nothing_new(engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    for _ in range(2):
        with transaction(engine) as session:
            request_cancel(session, audit_id)
    assert event_kinds(engine, audit_id).count("audit.cancelling") == 1


def test_cancel_of_an_ended_audit_is_refused(engine: Engine) -> None:
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    with pytest.raises(IllegalTransition), transaction(engine) as session:
        request_cancel(session, audit_id)


def test_audit_being_cancelled_ends_with_its_last_worker(engine: Engine) -> None:
    audit_id = add_audit(engine)
    for position in range(3):
        add_step(engine, audit_id, position)
    first, second = claimed(engine, "worker-1"), claimed(engine, "worker-2")
    with transaction(engine) as session:
        request_cancel(session, audit_id)
    end_step(engine, first)
    assert go_on(engine, first) is None
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLING
    end_step(engine, second)
    assert go_on(engine, second) is None
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED


def finished_audit(engine: Engine, *, tuned: StepStatus, verdict: Verdict | None) -> str:
    """An audit whose steps have all ended, left by its only worker."""
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    add_step(
        engine, audit_id, 1, kind=StepKind.TUNE, status=tuned, inputs={"edit_step": "e"}, title="tune it"
    )
    outcome = {"verdict": verdict} if verdict else None
    status = StepStatus.SUCCEEDED if verdict else StepStatus.FAILED
    add_step(engine, audit_id, 2, kind=StepKind.ANALYSE, status=status, outcome=outcome, error="no disk")
    end_step(engine, lease)
    assert go_on(engine, lease) is None
    return audit_id


def test_audit_whose_work_is_done_ends_with_its_last_worker(engine: Engine) -> None:
    audit_id = add_audit(engine)
    for position in range(2):
        add_step(engine, audit_id, position)
    first, second = claimed(engine, "worker-1"), claimed(engine, "worker-2")
    for lease in (first, second):
        end_step(engine, lease)
    assert go_on(engine, second) is None
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING
    assert go_on(engine, first) is None
    assert audit_of(engine, audit_id).status is AuditStatus.FAILED
    assert event_kinds(engine, audit_id)[-1] == "audit.failed"


def test_audit_with_a_report_on_a_trial_succeeds_with_its_verdict(engine: Engine) -> None:
    audit_id = finished_audit(engine, tuned=StepStatus.SUCCEEDED, verdict=Verdict.FAIL)
    audit = audit_of(engine, audit_id)
    assert (audit.status, audit.verdict) == (AuditStatus.SUCCEEDED, Verdict.FAIL)


def test_audit_without_a_measured_trial_fails_by_the_step_that_failed(engine: Engine) -> None:
    audit_id = finished_audit(engine, tuned=StepStatus.FAILED, verdict=Verdict.INCONCLUSIVE)
    audit = audit_of(engine, audit_id)
    assert audit.status is AuditStatus.FAILED
    assert (audit.error or "").startswith("tune it")


def test_audit_without_a_report_fails(engine: Engine) -> None:
    audit_id = finished_audit(engine, tuned=StepStatus.SUCCEEDED, verdict=None)
    audit = audit_of(engine, audit_id)
    assert audit.status is AuditStatus.FAILED
    assert (audit.error or "").endswith("no disk")


def test_audit_whose_steps_wait_for_another_audit_is_queued_again(engine: Engine) -> None:
    audit_id = add_audit(engine)
    add_step(engine, audit_id)
    lease = claimed(engine)
    add_step(engine, audit_id, 1, key="k" * 64, code_version="c" * 64)
    other = add_audit(engine, priority=9)
    add_step(engine, other, key="k" * 64, code_version="c" * 64)
    assert claimed(engine, "worker-2").audit_id == other
    end_step(engine, lease)
    assert go_on(engine, lease) is None
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED
