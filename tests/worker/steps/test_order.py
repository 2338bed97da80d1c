"""Audits that are interrupted, shared out or robbed of their inputs end as if nothing had happened."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlmodel import col

from services.worker.orders import Order
from services.worker.steps import order
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.order import CodeChanged, next_step, run_step, work_on_audit
from shared.artifacts import ArtifactStoreUnavailable
from shared.database import database_now, transaction
from shared.leases import LeaseLost, renew
from shared.model_files import HubUnavailable
from shared.recovery import reap_expired
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from shared.tables import Attempt, Audit, Step
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import (
    another_worker,
    audit_of,
    claimed,
    events_of,
    report_of,
    rows_of,
    run_steps,
    scores_of,
    steps_of,
)

NOT_COMPARED = {"audit_id", "created_at"}


def small_request(**changes: Any) -> dict[str, Any]:
    """One editor, one recipe, two freezes: an edit and two tunings, and as many of the base."""
    return parity_request(editors=parity_request()["editors"][1:], **changes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    """The small audit, run by one worker from its start to its end."""
    context = claimed(tmp_path_factory.mktemp("uninterrupted"), small_request())
    work_on_audit(context)
    return context


def assert_same_findings(context: AuditContext, uninterrupted: AuditContext) -> None:
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    assert scores_of(context) == scores_of(uninterrupted)
    ours, theirs = (report_of(one).model_dump(exclude=NOT_COMPARED) for one in (context, uninterrupted))
    assert ours.pop("configurations") is not None
    theirs.pop("configurations")
    assert ours == theirs


def lose_worker(context: AuditContext) -> None:
    """Have the reaper find that the worker is gone."""
    with transaction(context.engine) as session:
        session.execute(update(Attempt).values(lease_expires_at=database_now(-1.0)))
    assert reap_expired(context.engine, context.settings.max_step_attempts) == [context.lease.audit_id]


@pytest.mark.parametrize("steps_done", [0, 1, 2, 4])
def test_audit_that_lost_its_worker_gives_what_an_uninterrupted_one_gives(
    tmp_path: Path, uninterrupted: AuditContext, steps_done: int
) -> None:
    first = claimed(tmp_path, small_request())
    run_steps(first, steps_done)
    next_step(first)
    done_before = {step.id: step.finished_at for step in first.steps() if step.status is StepStatus.SUCCEEDED}
    lose_worker(first)
    second = another_worker(first)
    work_on_audit(second)
    assert_same_findings(second, uninterrupted)
    finished = {step.id: step.finished_at for step in second.steps()}
    assert {step_id: finished[step_id] for step_id in done_before} == done_before
    with pytest.raises(LeaseLost):
        work_on_audit(first)


def test_two_workers_share_the_steps_of_one_audit(tmp_path: Path, uninterrupted: AuditContext) -> None:
    first = claimed(tmp_path, small_request())
    run_steps(first, 3)  # plan, base, edit or the first tuning of the base
    second = another_worker(first)
    one, other = next_step(first), next_step(second)
    assert one is not None
    assert other is not None
    assert one.id != other.id
    run_step(second, other)
    run_step(first, one)
    work_on_audit(second)
    work_on_audit(first)
    assert_same_findings(first, uninterrupted)


def test_worker_that_finds_all_steps_taken_leaves_the_audit_to_the_others(tmp_path: Path) -> None:
    first = claimed(tmp_path, small_request())
    run_steps(first, 2)
    others = [another_worker(first, f"worker-{number}") for number in range(2)]
    held = [next_step(context) for context in (first, *others)]
    assert all(step is not None for step in held)
    step = held[2]
    assert step is not None
    run_step(others[1], step)
    assert next_step(others[1]) is None
    assert audit_of(first).status is AuditStatus.RUNNING
    with pytest.raises(LeaseLost):
        next_step(others[1])


def test_step_of_another_audit_that_is_identical_is_taken_over_and_marked(
    tmp_path: Path, uninterrupted: AuditContext
) -> None:
    first = claimed(tmp_path, small_request())
    work_on_audit(first)
    second = claimed(tmp_path, small_request())
    work_on_audit(second)
    reused = [step for step in second.steps() if step.source_step_id != step.id]
    assert {step.kind for step in reused} == {StepKind.BASE, StepKind.EDIT, StepKind.TUNE}
    assert events_of(second).count("step.reused") == len(reused)
    assert_same_findings(second, uninterrupted)


def test_audit_from_scratch_takes_nothing_over(tmp_path: Path, uninterrupted: AuditContext) -> None:
    work_on_audit(claimed(tmp_path, small_request()))
    second = claimed(tmp_path, small_request())
    with transaction(second.engine) as session:
        session.execute(update(Audit).where(col(Audit.id) == second.lease.audit_id).values(from_scratch=True))
    work_on_audit(second)
    assert all(step.source_step_id == step.id for step in second.steps())
    assert_same_findings(second, uninterrupted)


@pytest.mark.parametrize("damage", ["flip a bit", "truncate", "remove"])
def test_damaged_artifact_is_found_and_computed_again(
    tmp_path: Path, uninterrupted: AuditContext, damage: str
) -> None:
    context = claimed(tmp_path, small_request())
    while not steps_of(context, StepKind.EDIT) or steps_of(context, StepKind.EDIT)[0].artifact is None:
        run_steps(context, 1)
    artifact = steps_of(context, StepKind.EDIT)[0].artifact
    assert artifact is not None
    path = tmp_path / "artifacts" / artifact
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    work_on_audit(context)
    assert events_of(context).count("step.damaged") == 1
    assert_same_findings(context, uninterrupted)


def test_artifact_that_is_damaged_again_and_again_fails_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(tmp_path, small_request())
    put_file = type(context.store).put_file

    def put_and_damage(store: Any, path: Path, suffix: str) -> Any:
        artifact = put_file(store, path, suffix)
        (tmp_path / "artifacts" / artifact.name).write_bytes(b"rotten")
        return artifact

    monkeypatch.setattr(type(context.store), "put_file", put_and_damage)
    work_on_audit(context)
    edit = steps_of(context, StepKind.EDIT)[0]
    assert edit.damages == context.settings.max_step_attempts - 1
    of_edited = [step for step in steps_of(context, StepKind.TUNE) if step.inputs["edit_step"]]
    assert {(step.status, step.cause) for step in of_edited} == {(StepStatus.FAILED, Cause.INFRASTRUCTURE)}
    assert audit_of(context).status is AuditStatus.FAILED


@pytest.mark.parametrize(
    "trouble",
    [
        HubUnavailable("the hub answered with status 503"),
        ArtifactStoreUnavailable(OSError(28, "No space left on device")),
        OperationalError("SELECT", {}, Exception("the connection is gone")),
        ConnectionResetError("reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_step_whose_surroundings_are_away_is_tried_again_after_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def away(*_: object) -> None:
        raise trouble

    context = claimed(tmp_path, small_request(), retry_wait_seconds=60)
    with monkeypatch.context() as patch:
        patch.setitem(order.RUN, StepKind.PLAN, away)
        work_on_audit(context)
    plan = context.steps()[0]
    assert (plan.status, plan.deaths, plan.delays) == (StepStatus.PENDING, 0, 1)
    assert audit_of(context).status is AuditStatus.QUEUED
    with transaction(context.engine) as session:
        session.execute(update(Step).values(ready_at=database_now(-1.0)))
    second = another_worker(context)
    run_steps(second, 2)
    assert context.steps()[0].status is StepStatus.SUCCEEDED


def test_step_that_was_computed_before_waits_for_the_store_and_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ArtifactStoreUnavailable(OSError("the share is gone"))

    first = claimed(tmp_path, small_request())
    work_on_audit(first)
    second = claimed(tmp_path, small_request(), retry_wait_seconds=0)
    run_steps(second, 2)
    edit = next_step(second)
    assert edit is not None
    with monkeypatch.context() as patch:
        patch.setattr(type(second.store), "verify", away)
        run_step(second, edit)
    assert (second.step(edit.id).status, second.step(edit.id).delays) == (StepStatus.PENDING, 1)
    run_steps(second, 1)
    assert second.step(edit.id).source_step_id == steps_of(first, StepKind.EDIT)[0].id


def test_worker_that_is_stopped_leaves_its_step_to_another(
    tmp_path: Path, uninterrupted: AuditContext
) -> None:
    first = claimed(tmp_path, small_request())
    run_steps(first, 2)
    first.orders.take(Order.HAND_OVER)
    work_on_audit(first)
    assert audit_of(first).status is AuditStatus.QUEUED
    assert sum(step.deaths for step in first.steps()) == 0
    second = another_worker(first)
    work_on_audit(second)
    assert_same_findings(second, uninterrupted)


def test_worker_that_finishes_ends_its_step_and_takes_no_other(tmp_path: Path) -> None:
    context = claimed(tmp_path, small_request())
    context.orders.take(Order.FINISH)
    work_on_audit(context)
    assert [step.status for step in context.steps()][:2] == [StepStatus.SUCCEEDED, StepStatus.PENDING]
    assert audit_of(context).status is AuditStatus.QUEUED


def test_paused_step_computes_nothing_holds_no_lock_and_goes_on_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(tmp_path, small_request())
    probed: list[str] = []

    def probe(context: AuditContext, step: Step) -> StepOutcome:
        context.report_progress(step, 0.5)
        probed.append(step.title)
        return StepOutcome()

    monkeypatch.setitem(order.RUN, StepKind.PLAN, probe)
    context.orders.take(Order.PAUSE)
    worker = threading.Thread(target=run_steps, args=(context, 1), daemon=True)
    worker.start()
    worker.join(0.3)
    assert probed == []
    renew(context.engine, context.lease)  # waits for nobody
    context.orders.take(Order.RESUME)
    worker.join()
    assert probed == ["plan"]


def test_audit_that_is_being_cancelled_publishes_nothing(tmp_path: Path) -> None:
    context = claimed(tmp_path, small_request())
    step = next_step(context)
    assert step is not None
    with transaction(context.engine) as session:
        session.execute(update(Audit).values(status=AuditStatus.CANCELLING))
    with pytest.raises(LeaseLost):
        run_step(context, step)
    assert [step.status for step in context.steps()] == [StepStatus.RUNNING]


def test_step_whose_end_was_committed_though_the_connection_was_lost_is_not_ended_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(tmp_path, small_request())
    write = context.write
    lost: list[bool] = []

    def lose_the_answer(work: Any) -> Any:
        answer = write(work)
        if not lost:
            lost.append(True)
            return write(work)  # what `patiently` does when the commit's answer never came
        return answer

    run_steps(context, 1)
    step = next_step(context)
    assert step is not None
    monkeypatch.setattr(context, "write", lose_the_answer)
    run_step(context, step)
    assert lost
    assert events_of(context).count("step.succeeded") == 2
    asked = {(row.fact_id, row.probe_kind, row.probe_index) for row in rows_of(context, context.steps()[1])}
    assert len(rows_of(context, context.steps()[1])) == len(asked)


def test_failure_nobody_foresaw_is_tried_in_other_processes_before_it_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(order.RUN, StepKind.BASE, break_down)
    context = claimed(tmp_path, small_request())
    for deaths in (1, 2, 3):
        work_on_audit(context)
        assert context.failed_unforeseen  # by which the child knows that it must end
        assert steps_of(context, StepKind.BASE)[0].deaths == deaths
        context = another_worker(context)
    work_on_audit(context)
    base = steps_of(context, StepKind.BASE)[0]
    assert (base.status, base.cause) == (StepStatus.FAILED, Cause.INFRASTRUCTURE)
    assert "ZeroDivisionError" in (base.error or "")
    assert audit_of(context).status is AuditStatus.FAILED


def test_step_taken_in_the_name_of_other_code_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(tmp_path, small_request())
    monkeypatch.setattr(order, "code_version", lambda: "the files were replaced")
    with pytest.raises(CodeChanged):
        work_on_audit(context)
    assert [step.status for step in context.steps()] == [StepStatus.RUNNING]


def test_finished_work_waits_for_a_store_that_is_away(
    tmp_path: Path, uninterrupted: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(tmp_path, small_request(), retry_wait_seconds=0)
    put_file = context.store.put_file
    failures = [ArtifactStoreUnavailable(OSError(28, "No space left on device"))] * 3

    def put(path: Path, suffix: str) -> Any:
        if failures:
            raise failures.pop()
        return put_file(path, suffix)

    monkeypatch.setattr(context.store, "put_file", put)
    work_on_audit(context)
    assert not failures
    assert events_of(context).count("step.started") == len(context.steps())
    assert_same_findings(context, uninterrupted)
