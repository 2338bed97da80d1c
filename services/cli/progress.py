"""Shows an audit going on: bars on a terminal, one line per change anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from services.cli.news import told
from services.cli.wording import STEP_MARKS, place_in_queue, step_remark, time_left
from shared.states import AuditStatus, StepStatus
from shared.views import AuditView, EventView, StepView


class AuditDisplay(Protocol):
    """Is told each time the audit has changed."""

    def update(self, view: AuditView, events: Sequence[EventView] = ()) -> None:
        """Show where the audit stands now, and what has happened to it since the last time."""


@contextmanager
def audit_display(console: Console) -> Iterator[AuditDisplay]:
    """The display that fits where `console` writes to."""
    if not console.is_terminal:
        yield LineDisplay(console)
        return
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[remark]}", style="dim", markup=False),
        console=console,
        transient=True,
    )
    with progress:
        yield BarDisplay(progress)


class LineDisplay:
    """One line whenever a step starts or ends, and for whatever else happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._previous: AuditView | None = None

    def update(self, view: AuditView, events: Sequence[EventView] = ()) -> None:
        """Print what is new since the last time."""
        for line in (*told(events), *news(self._previous, view)):
            self._console.print(line, soft_wrap=True)
        for step in changed_steps(self._previous, view):
            self._console.print(step_line(step), soft_wrap=True)
        self._previous = view


class BarDisplay:
    """Bars for the whole audit and for each running step; ended steps scroll away as lines above."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._previous: AuditView | None = None
        self._whole = progress.add_task("the audit", total=1.0, remark="")
        self._running: dict[str, TaskID] = {}

    def update(self, view: AuditView, events: Sequence[EventView] = ()) -> None:
        """Bring lines and bars up to date."""
        for line in (*told(events), *news(self._previous, view)):
            self._progress.console.print(line)
        for step in changed_steps(self._previous, view):
            if step.status is not StepStatus.RUNNING:
                self._progress.console.print(step_line(step))
        for step in view.steps:
            self._show(step)
        waits = view.status is AuditStatus.QUEUED
        remark = f"waiting{place_in_queue(view)}" if waits else time_left(view.seconds_left)
        self._progress.update(self._whole, completed=view.progress, remark=remark)
        self._previous = view

    def _show(self, step: StepView) -> None:
        if step.status is not StepStatus.RUNNING:
            if step.id in self._running:
                self._progress.remove_task(self._running.pop(step.id))
            return
        if step.id not in self._running:
            self._running[step.id] = self._progress.add_task(step.title, total=1.0, remark="")
        self._progress.update(self._running[step.id], completed=step.progress, remark=step_remark(step))


def changed_steps(previous: AuditView | None, view: AuditView) -> Iterator[StepView]:
    """Steps that have started or ended since `previous`, in their order; events tell why one fell back."""
    before = {step.id: (step.status, step.deaths) for step in previous.steps} if previous else {}
    for step in view.steps:
        if step.status is not StepStatus.PENDING and (step.status, step.deaths) != before.get(step.id):
            yield step


def step_line(step: StepView) -> Text:
    """A step in one line: mark, title, remark."""
    mark, style = STEP_MARKS[step.status]
    line = Text.assemble((mark, style), " ", step.title)
    if remark := step_remark(step):
        line.append(f"  {remark}", style="red" if step.status is StepStatus.FAILED else "dim")
    return line


def news(previous: AuditView | None, view: AuditView) -> Iterator[Text]:
    """What has happened to the audit as a whole since `previous`."""
    if view.status is AuditStatus.QUEUED and (
        previous is None
        or previous.status is not AuditStatus.QUEUED
        or previous.queue_position != view.queue_position
    ):
        yield Text(f"waiting for a worker{place_in_queue(view)}", style="dim")
    if view.status is AuditStatus.CANCELLING and (previous is None or previous.status is not view.status):
        yield Text("being cancelled", style="yellow")
