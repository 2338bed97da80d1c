"""Has the worker of a data directory end its step and take nothing more, and waits until it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from services.cli.errors import HoldfastError
from services.worker.draining import request_drain
from services.worker.heartbeat import IDLE, is_alive, last_beat
from shared.settings import Settings

LOOK_EVERY_SECONDS = 0.5


class NoWorker(HoldfastError):
    """No worker of that data directory answers."""


def ask_to_drain(settings: Settings) -> int:
    """Ask the worker; the moment at which it was asked, as `wait_until_idle` takes it.

    Raises:
        NoWorker: there is none to ask.
    """
    if not is_alive(settings):
        raise NoWorker(
            f"No worker is alive in {settings.data_directory}",
            f"None has given a sign of life there within {settings.lease_seconds:g} seconds.",
            hint="Name the data directory of the worker with --data or HOLDFAST_DATA_DIRECTORY.",
        )
    return request_drain(settings)


def wait_until_idle(
    settings: Settings, asked_nanoseconds: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Yield what the worker does, each time it does something else, up to its being idle.

    What it said of itself before it was asked does not count: it may have taken an audit since.

    Raises:
        NoWorker: it gives no sign of life any more.
    """
    said: str | None = None
    while True:
        if not is_alive(settings):
            raise NoWorker(
                f"The worker of {settings.data_directory} gives no sign of life any more",
                "What it was at goes back to the queue by itself.",
            )
        beat = last_beat(settings)
        if beat is not None and beat.doing == IDLE and beat.at_nanoseconds > asked_nanoseconds:
            yield "The worker is idle: stop it, or start it anew to have it take work again."
            return
        if beat is not None and beat.doing not in {IDLE, "", said}:
            said = beat.doing
            yield f"It is at {said} and ends the step at hand."
        sleep(LOOK_EVERY_SECONDS)
