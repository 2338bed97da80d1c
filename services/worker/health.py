"""Whether a worker lives, told by the age of a file that it touches, idle or at work.

At work the supervisor touches it whenever it has renewed its lease; between audits a timer of
Celery's own loop does, so that a loop that hangs is found out too. (Celery's `inspect ping` gets no
answer from the solo pool during a task.)

`python -m services.worker.health` exits with 0 while the file is younger than a lease, else with 1.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import bootsteps

from services.worker.draining import end_drain
from services.worker.heartbeat import IDLE, beat, is_alive
from shared.settings import get_settings


class IdleHeartbeat(bootsteps.StartStopStep):
    """Beats from the loop of the Celery worker, which stands still while a task runs."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        """Beat at once, then repeatedly."""
        settings = get_settings()
        end_drain(settings)  # that was said to the worker before this one
        beat(settings, IDLE)
        worker.timer.call_repeatedly(settings.heartbeat_seconds, beat, (settings, IDLE))


if __name__ == "__main__":
    sys.exit(0 if is_alive(get_settings()) else 1)
