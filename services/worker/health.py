"""Whether a worker lives, told by the age of a file that it touches, idle or at work.

At work the supervisor touches it whenever it has renewed its lease; between audits a timer of
Celery's own loop does, so that a loop that hangs is found out too. (Celery's `inspect ping` gets no
answer from the solo pool during a task.)

`python -m services.worker.health` exits with 0 while the file is younger than a lease, else with 1.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from celery import bootsteps

from services.worker.draining import end_drain
from shared.settings import Settings, get_settings

HEARTBEAT_FILE = "worker-heartbeat"
IDLE = "idle"


class IdleHeartbeat(bootsteps.StartStopStep):
    """Beats from the loop of the Celery worker, which stands still while a task runs."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        """Beat at once, then repeatedly."""
        settings = get_settings()
        end_drain(settings)  # that was said to the worker before this one
        beat(settings, IDLE)
        worker.timer.call_repeatedly(settings.heartbeat_seconds, beat, (settings, IDLE))


def beat(settings: Settings, doing: str) -> None:
    """Say that the worker lives, and what it does."""
    settings.data_directory.mkdir(parents=True, exist_ok=True)
    (settings.data_directory / HEARTBEAT_FILE).write_text(doing)


def is_alive(settings: Settings) -> bool:
    """Whether the last beat is younger than a lease; after that, an audit at hand would be taken over."""
    try:
        beaten_at = (settings.data_directory / HEARTBEAT_FILE).stat().st_mtime
    except FileNotFoundError:
        return False
    return time.time() - beaten_at < settings.lease_seconds


if __name__ == "__main__":
    sys.exit(0 if is_alive(get_settings()) else 1)
