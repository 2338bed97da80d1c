"""Whether a worker lives, told by the age of a file that it touches, idle or at work.

At work the supervisor touches it whenever it has renewed its lease; between audits a timer of Celery
does. (Celery's `inspect ping` gets no answer from the solo pool during a task.) Where the broker is made of
folders that timer has a thread of its own, which a task does not hold up, so it is told of tasks.

`python -m services.worker.health` exits with 0 while the file is younger than a lease, else with 1.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import bootsteps

from services.worker.draining import end_drain
from services.worker.heartbeat import IDLE, beat, is_alive
from shared.settings import Settings, get_settings

LONGEST_NAP_SECONDS = 1.0  # where the timer has a thread, the worker ends only when its nap does
_idle = threading.Lock()  # held by a task for as long as it runs


class IdleHeartbeat(bootsteps.StartStopStep):
    """Beats between tasks."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        """Beat at once, then repeatedly."""
        settings = get_settings()
        end_drain(settings)  # that was said to the worker before this one
        beat(settings, IDLE)
        every = min(settings.heartbeat_seconds, LONGEST_NAP_SECONDS)
        worker.timer.call_repeatedly(every, beat_if_idle, (settings,))


def beat_if_idle(settings: Settings) -> None:
    """Say that the worker lives and is idle, unless a task runs: then its supervisor speaks for it."""
    if _idle.acquire(blocking=False):
        try:
            beat(settings, IDLE)
        finally:
            _idle.release()


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """A task: nothing says meanwhile that the worker is idle, and its end does."""
    with _idle:
        try:
            yield
        finally:
            beat(settings, IDLE)


if __name__ == "__main__":
    sys.exit(0 if is_alive(get_settings()) else 1)
