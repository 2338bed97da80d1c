"""Shows the stages of one piece of work as they go by: bars on a terminal, a line each anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from services.cli.wording import STEP_MARKS, duration
from shared.states import StepStatus

Told = Callable[[int, int], None]  # called with the work done and the whole
Stage = Callable[[str], AbstractContextManager[Told]]


@contextmanager
def stages(console: Console) -> Iterator[Stage]:
    """What begins a stage, given its title. A stage that never tells of any work is not shown."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    @contextmanager
    def stage(title: str) -> Iterator[Told]:
        begun = time.monotonic()
        task = progress.add_task(title, total=None, visible=False)

        def tell(done: int, whole: int) -> None:
            progress.update(task, completed=done, total=whole, visible=True)

        yield tell
        shown = progress.tasks[progress.task_ids.index(task)].visible
        progress.remove_task(task)
        if shown:
            console.print(stage_line(title, time.monotonic() - begun), soft_wrap=True)

    with progress:
        yield stage


def stage_line(title: str, seconds: float) -> Text:
    """A stage that has ended, in one line."""
    mark, style = STEP_MARKS[StepStatus.SUCCEEDED]
    return Text.assemble((mark, style), " ", title, (f"  {duration(seconds)}", "dim"))
