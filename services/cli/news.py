"""Events of an audit as lines to read: what steps and workers went through, not what went as it should."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.text import Text

from services.cli.wording import percent
from shared.views import EventView

LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "step.died": lambda data: f"{data['step']} died: {data['error']}",
    "step.handed_over": lambda data: f"{data['step']} is handed over: {data['why']}",
    "step.resumed": lambda data: f"{data['step']} goes on from its checkpoint at {percent(data['share'])}",
    "step.checkpoint_ignored": lambda data: f"{data['step']}: a checkpoint is of no use: {data['error']}",
    "step.delayed": lambda data: f"{data['step']} is tried again in {data['seconds']:.0f} s: {data['error']}",
    "step.damaged": lambda data: f"{data['step']} is computed again, its result is damaged: {data['error']}",
    "step.out_of_memory": lambda data: (
        f"{data['step']} ran out of memory and goes on with batches of {data['micro_batch']}"
    ),
    "attempt.ended": lambda data: f"worker {data['worker']} left: {data['error']}",
}


def told(events: Sequence[EventView]) -> Iterator[Text]:
    """A line for each event that is worth one.

    A worker that was lost takes its step with it: the reason is told once.
    """
    last_error: str | None = None
    for event in events:
        error = event.data.get("error")
        left_quietly = event.kind == "attempt.ended" and error in {None, last_error}
        if event.kind in LINES and not left_quietly:
            yield Text(LINES[event.kind](event.data), style="yellow")
        last_error = error
