from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from services.cli.progress import audit_display
from shared.states import AuditStatus, Cause, StepStatus
from shared.views import AuditView, EventView
from tests.cli.views import audit, event, step


def shown(
    *views: AuditView, terminal: bool = False, width: int = 80, events: Sequence[EventView] = ()
) -> str:
    """All that a display of `views`, one after the other, has written in the end."""
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=terminal, highlight=False, color_system=None, _environ={}
    )
    with audit_display(console) as display:
        for view in views:
            display.update(view, events)
    return output.getvalue()


def lines(*views: AuditView) -> list[str]:
    """What is written where there is no terminal."""
    return shown(*views).splitlines()


def with_step(status: StepStatus, **changes: object) -> AuditView:
    return audit(steps=[step("1", status, **changes)])


def test_step_is_told_when_it_starts_and_when_it_ends() -> None:
    running = with_step(StepStatus.RUNNING)
    succeeded = with_step(StepStatus.SUCCEEDED)

    assert lines(running, running, succeeded, succeeded) == ["▶ step 1", "✓ step 1  1 min 05 s"]


def test_progress_within_a_step_is_no_line_of_its_own() -> None:
    views = [with_step(StepStatus.RUNNING, progress=share / 10) for share in range(10)]

    assert lines(*views) == ["▶ step 1"]


def test_reused_step_is_marked() -> None:
    assert lines(with_step(StepStatus.SUCCEEDED, reused=True)) == [
        "✓ step 1  reused: the same step has run before"
    ]


def test_failed_step_is_told_with_cause_and_reason() -> None:
    failed = with_step(StepStatus.FAILED, cause=Cause.MODEL, error="loss is not finite")

    assert lines(failed) == ["✗ step 1  failed (model): loss is not finite"]


def test_skipped_step_is_told_with_its_reason() -> None:
    assert lines(with_step(StepStatus.SKIPPED)) == ["− step 1  skipped: a step it needs failed"]


def test_step_that_runs_again_is_told_with_its_deaths() -> None:
    views = [
        with_step(StepStatus.RUNNING),
        with_step(StepStatus.PENDING, deaths=1),
        with_step(StepStatus.RUNNING, deaths=1),
    ]

    assert lines(*views) == ["▶ step 1", "▶ step 1  died once"]


def test_steps_that_run_at_once_are_told_each() -> None:
    running = [step("1", StepStatus.RUNNING), step("2", StepStatus.RUNNING)]
    ended = [step("1", StepStatus.RUNNING), step("2", StepStatus.SUCCEEDED)]

    assert lines(audit(steps=running), audit(steps=ended)) == [
        "▶ step 1",
        "▶ step 2",
        "✓ step 2  1 min 05 s",
    ]


def test_place_in_the_queue_is_told_when_it_changes() -> None:
    places = [audit(AuditStatus.QUEUED, queue_position=place) for place in (2, 2, 1)]

    assert lines(*places) == [
        "waiting for a worker, number 2 in the queue",
        "waiting for a worker, number 1 in the queue",
    ]


def test_wait_for_a_worker_is_told_with_the_place() -> None:
    view = audit(AuditStatus.QUEUED, queue_position=2, starts_in_seconds=65)

    assert lines(view) == ["waiting for a worker, number 2 in the queue, starts in about 1 min 05 s"]


@pytest.mark.parametrize(
    ("happened", "line"),
    [
        (
            event("step.died", step="step 1", deaths=1, cause="model", error="no memory"),
            "step 1 died: no memory",
        ),
        (
            event("step.handed_over", step="step 1", why="its worker was stopped"),
            "step 1 is handed over: its worker was stopped",
        ),
        (event("step.resumed", step="step 1", share=0.4), "step 1 goes on from its checkpoint at 40 %"),
        (
            event("step.damaged", step="step 1", error="wrong hash"),
            "step 1 is computed again, its result is damaged: wrong hash",
        ),
        (
            event("step.checkpoint_ignored", step="step 1", error="wrong hash"),
            "step 1: a checkpoint is of no use: wrong hash",
        ),
        (
            event("step.out_of_memory", step="step 1", micro_batch=2),
            "step 1 ran out of memory and goes on with batches of 2",
        ),
        (
            event("attempt.ended", attempt=1, worker="host:1", error="the worker was lost"),
            "worker host:1 left: the worker was lost",
        ),
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_what_steps_and_workers_go_through_is_told(happened: EventView, line: str, terminal: bool) -> None:
    output = shown(audit(), terminal=terminal, events=[happened])

    assert line in output


def test_reason_of_a_lost_worker_is_told_once() -> None:
    events = [
        event("step.died", step="step 1", deaths=1, error="the worker was lost"),
        event("attempt.ended", attempt=1, worker="host:1", error="the worker was lost"),
    ]

    assert shown(audit(), events=events).splitlines() == ["step 1 died: the worker was lost"]


def test_what_goes_as_it_should_is_no_news() -> None:
    events = [
        event("attempt.started", attempt=1, worker="host:1"),
        event("step.succeeded", step="step 1"),
        event("attempt.ended", attempt=1, worker="host:1"),
    ]

    assert shown(audit(), events=events) == ""


def test_long_reason_is_not_broken_where_there_is_no_terminal() -> None:
    failed = with_step(StepStatus.FAILED, error="because " * 50)

    assert len(lines(failed)) == 1


def test_markup_in_a_title_is_shown_as_it_is() -> None:
    assert lines(with_step(StepStatus.RUNNING, title="edit [/bold] [red]")) == ["▶ edit [/bold] [red]"]


def test_terminal_shows_a_bar_with_the_time_left_for_each_running_step() -> None:
    view = audit(
        progress=0.25,
        seconds_left=200,
        steps=[
            step("1", StepStatus.RUNNING, progress=0.5, seconds_left=65, progress_note="loss 3.2"),
            step("2", StepStatus.RUNNING, progress=0.1),
            step("3"),
        ],
    )

    text = shown(view, terminal=True, width=120)

    assert "the audit" in text
    assert "25%" in text
    assert "about 3 min 20 s left" in text
    assert "50% loss 3.2  about 1 min 05 s left" in text
    assert "step 2" in text
    assert "step 3" not in text


def test_terminal_keeps_a_line_of_each_ended_step() -> None:
    views = [with_step(StepStatus.RUNNING), with_step(StepStatus.SUCCEEDED)]

    assert "✓ step 1  1 min 05 s" in shown(*views, terminal=True)


def test_bar_of_an_ended_step_goes() -> None:
    views = [with_step(StepStatus.RUNNING), with_step(StepStatus.SUCCEEDED)]

    last_frame = shown(*views, terminal=True).rsplit("the audit", 1)[-1]

    assert "step 1" not in last_frame
