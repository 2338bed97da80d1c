"""Where an audit stands, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Console
from rich.text import Text

from services.cli.progress import step_line
from services.cli.wording import STATUS_STYLES, percent, place_in_queue, time_left, verdict_text
from shared.states import AuditStatus
from shared.views import AttemptView, AuditView


def print_status(console: Console, view: AuditView) -> None:
    """Print an audit's state, verdict, steps and workers."""
    headline = Text(f"audit {view.id}  ")
    headline.append(view.status, style=STATUS_STYLES.get(view.status, "cyan"))
    if view.verdict:
        headline.append("  ").append_text(verdict_text(view.verdict))
    console.print(headline, soft_wrap=True)
    done = (f"{view.model}, {view.edit_count} edits, {percent(view.progress)} done", work_left(view))
    console.print(", ".join(filter(None, done)), soft_wrap=True)
    for line in standing(view):
        console.print(Text(line, style="dim"), soft_wrap=True)
    if view.error:
        console.print(Text(view.error, style="red"), soft_wrap=True)
    for step in view.steps:
        console.print(step_line(step), soft_wrap=True)
    for attempt in view.attempts:
        if (spell := attempt_line(attempt)) is not None:
            console.print(spell, soft_wrap=True)


def work_left(view: AuditView) -> str:
    """How long the audit will still take once it is worked on."""
    return "" if view.status.is_terminal else time_left(view.seconds_left)


def standing(view: AuditView) -> Iterator[str]:
    """What an audit waits for, when it will be given up, and which one it does again."""
    if view.status is AuditStatus.QUEUED:
        yield f"waiting for a worker{place_in_queue(view)}"
    if view.deadlines.expires_at is not None:
        unless = "ended" if view.started_at else "begun"
        yield f"expires at {moment(view.deadlines.expires_at)} unless it has {unless}"
    if view.retry_of is not None:
        yield f"does audit {view.retry_of} again{', from scratch' if view.from_scratch else ''}"


def attempt_line(attempt: AttemptView) -> Text | None:
    """A worker that is at the audit, or that left it for a reason; None for one that went as it should."""
    if attempt.ended_at is None:
        at = f" at {attempt.step}" if attempt.step else ""
        return Text(f"attempt {attempt.number}: worker {attempt.worker}{at}", style="cyan")
    if attempt.error is None:
        return None
    cause = f" ({attempt.cause})" if attempt.cause else ""
    return Text(f"attempt {attempt.number} ended{cause}: {attempt.error}", style="yellow")


def moment(at: datetime) -> str:
    """`2026-01-15 09:30 UTC`."""
    return f"{at:%Y-%m-%d %H:%M} UTC"
