"""The time that an audit will still take is judged by what its steps, and those of others, took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.api.estimates import Estimate, seconds_until_taken
from shared.states import StepKind, StepStatus
from shared.tables import Step

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def step(
    kind: StepKind,
    status: StepStatus,
    *,
    began: float = 0.0,
    took: float | None = None,
    progress: float = 0.0,
    source: str | None = None,
    title: str | None = None,
) -> Step:
    """A step that began so many seconds ago and, where it has ended, took so many."""
    started_at = None if status is StepStatus.PENDING else NOW - timedelta(seconds=began)
    finished_at = None if took is None or started_at is None else started_at + timedelta(seconds=took)
    return Step(
        audit_id="a",
        position=0,
        kind=kind,
        title=title or kind,
        key="k",
        status=status,
        progress=progress,
        source_step_id=source,
        started_at=started_at,
        finished_at=finished_at,
    )


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def test_running_step_takes_what_its_progress_promises() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=30, progress=0.25)
    assert Estimate([running], NOW).seconds_left(running) == pytest.approx(90)


def test_step_that_was_resumed_is_judged_by_the_progress_since() -> None:
    resumed = step(StepKind.TUNE, StepStatus.RUNNING, began=30, progress=0.75)
    estimate = Estimate([resumed], NOW, resumed={resumed.title: (ago(29), 0.5)})
    assert estimate.seconds_left(resumed) == pytest.approx(30)


def test_step_that_began_anew_is_not_judged_by_what_an_earlier_run_resumed() -> None:
    anew = step(StepKind.TUNE, StepStatus.RUNNING, began=30, progress=0.75)
    estimate = Estimate([anew], NOW, resumed={anew.title: (ago(100), 0.5)})
    assert estimate.seconds_left(anew) == pytest.approx(10)


def test_step_that_has_just_been_resumed_takes_its_rest_of_what_its_kind_takes() -> None:
    resumed = step(StepKind.TUNE, StepStatus.RUNNING, began=4, progress=0.75)
    estimate = Estimate(
        [resumed], NOW, history={StepKind.TUNE: 80.0}, resumed={resumed.title: (ago(2), 0.75)}
    )
    assert estimate.seconds_left(resumed) == pytest.approx(16)


def test_step_put_back_with_a_checkpoint_takes_the_rest_of_what_its_kind_takes() -> None:
    put_back = step(StepKind.TUNE, StepStatus.PENDING, progress=0.75)
    assert Estimate([put_back], NOW, history={StepKind.TUNE: 80.0}).seconds_left(put_back) == 20


def test_finished_step_that_was_resumed_counts_as_if_it_had_run_whole() -> None:
    resumed = step(StepKind.TUNE, StepStatus.SUCCEEDED, began=100, took=25, title="first")
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    estimate = Estimate([resumed, waiting], NOW, resumed={"first": (ago(99), 0.5)})
    assert estimate.seconds_left(waiting) == pytest.approx(50)


def test_waiting_step_takes_as_long_as_finished_ones_of_its_kind() -> None:
    done = [
        step(StepKind.TUNE, StepStatus.SUCCEEDED, began=100, took=10),
        step(StepKind.TUNE, StepStatus.SUCCEEDED, began=50, took=30),
        step(StepKind.EDIT, StepStatus.SUCCEEDED, began=200, took=90),
    ]
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert Estimate([*done, waiting], NOW).seconds_left(waiting) == pytest.approx(20)


def test_reused_steps_say_nothing_of_how_long_one_takes() -> None:
    reused = step(StepKind.TUNE, StepStatus.SUCCEEDED, took=0.0, source="another")
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert Estimate([reused, waiting], NOW).seconds_left(waiting) is None


def test_waiting_step_takes_as_long_as_the_first_of_its_kind_will() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.5)
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert Estimate([running, waiting], NOW).seconds_left(waiting) == pytest.approx(20)


def test_own_steps_count_before_those_of_earlier_audits() -> None:
    done = step(StepKind.TUNE, StepStatus.SUCCEEDED, began=100, took=10)
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert Estimate([done, waiting], NOW, history={StepKind.TUNE: 99.0}).seconds_left(waiting) == 10


def test_step_that_has_just_begun_takes_what_its_kind_took_before() -> None:
    done = step(StepKind.TUNE, StepStatus.SUCCEEDED, began=100, took=40)
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.0)
    assert Estimate([done, running], NOW).seconds_left(running) == pytest.approx(30)


def test_audit_takes_the_sum_of_its_steps() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.5)
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert Estimate([running, waiting], NOW).total_seconds_left(1) == pytest.approx(30)


def test_several_workers_share_what_is_left() -> None:
    waiting = [step(StepKind.TUNE, StepStatus.PENDING) for _ in range(4)]
    assert Estimate(waiting, NOW, history={StepKind.TUNE: 10.0}).total_seconds_left(2) == pytest.approx(20)


def test_workers_do_not_share_one_step() -> None:
    steps = [step(StepKind.TUNE, StepStatus.PENDING), step(StepKind.EDIT, StepStatus.PENDING)]
    history = {StepKind.TUNE: 90.0, StepKind.EDIT: 10.0}
    assert Estimate(steps, NOW, history=history).total_seconds_left(2) == pytest.approx(90)


def test_audit_with_a_step_that_cannot_be_told_promises_nothing() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.5)
    waiting = step(StepKind.ANALYSE, StepStatus.PENDING)
    assert Estimate([running, waiting], NOW).total_seconds_left(1) is None


def test_audit_that_is_not_planned_yet_takes_what_its_request_asks_for() -> None:
    plan = step(StepKind.PLAN, StepStatus.PENDING)
    history = {StepKind.PLAN: 1.0, StepKind.BASE: 10.0, StepKind.TUNE: 100.0}
    estimate = Estimate([plan], NOW, history, expected={StepKind.BASE: 1, StepKind.TUNE: 2})
    assert estimate.total_seconds_left(1) == pytest.approx(211)


def test_planned_audit_takes_what_its_own_steps_take() -> None:
    steps = [step(StepKind.PLAN, StepStatus.SUCCEEDED, took=1.0), step(StepKind.BASE, StepStatus.PENDING)]
    estimate = Estimate(steps, NOW, {StepKind.BASE: 10.0}, expected={StepKind.BASE: 1, StepKind.TUNE: 2})
    assert estimate.total_seconds_left(1) == pytest.approx(10)


def test_share_done_counts_every_step_alike() -> None:
    steps = [
        step(StepKind.PLAN, StepStatus.SUCCEEDED),
        step(StepKind.TUNE, StepStatus.RUNNING, progress=0.5),
        step(StepKind.TUNE, StepStatus.PENDING),
        step(StepKind.ANALYSE, StepStatus.CANCELLED),
    ]
    assert Estimate(steps, NOW).share_done() == pytest.approx(1.5 / 4)


def test_plan_alone_is_not_the_whole_audit() -> None:
    plan = step(StepKind.PLAN, StepStatus.RUNNING, progress=0.5)
    assert Estimate([plan], NOW, expected={StepKind.TUNE: 4}).share_done() == pytest.approx(0.1)


def test_workers_take_what_waits_one_spell_after_another() -> None:
    assert seconds_until_taken(position=6, workers=2, spell_seconds=30.0) == pytest.approx(90)


@pytest.mark.parametrize(("position", "workers", "spell"), [(None, 1, 1.0), (1, 0, 1.0), (1, 1, None)])
def test_wait_that_cannot_be_told_is_not(position: int | None, workers: int, spell: float | None) -> None:
    assert seconds_until_taken(position, workers, spell) is None
