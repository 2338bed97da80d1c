from __future__ import annotations

import io

from rich.console import Console

from services.cli.progress import audit_display
from shared.states import AuditStatus, Cause, StepStatus
from shared.views import AuditView
from tests.cli.views import audit, lost_attempt, step


def shown(*views: AuditView, terminal: bool = False, width: int = 80) -> str:
    """All that a display of `views`, one after the other, has written in the end."""
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=terminal, highlight=False, color_system=None, _environ={}
    )
    with audit_display(console) as display:
        for view in views:
            display.update(view)
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


def test_step_whose_worker_was_lost_is_told_to_run_again() -> None:
    views = [with_step(StepStatus.RUNNING), with_step(StepStatus.PENDING, deaths=1)]

    assert lines(*views)[-1] == "· step 1  runs again: its worker was lost"


def test_place_in_the_queue_is_told_when_it_changes() -> None:
    places = [audit(AuditStatus.QUEUED, queue_position=place) for place in (2, 2, 1)]

    assert lines(*places) == [
        "waiting for a worker, number 2 in the queue",
        "waiting for a worker, number 1 in the queue",
    ]


def test_ended_attempt_is_told_once() -> None:
    view = audit(attempts=[lost_attempt(1)])

    assert lines(view, view) == ["attempt 1 ended: worker lost"]


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
