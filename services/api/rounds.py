"""Work in the background of the gateway: a thread that does it again and again until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable

STOP_SECONDS = 5.0


class Rounds:
    """Does `work` every so many seconds, and at once when notified. `work` sees to its own errors."""

    def __init__(self, name: str, work: Callable[[], None], every_seconds: float) -> None:
        self._do = work
        self._every_seconds = every_seconds
        self._notified = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a round at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round at hand; one that hangs is left behind."""
        self._stopped.set()
        self._notified.set()
        self._thread.join(STOP_SECONDS)

    def notify(self) -> None:
        """There is something to do: do not wait for the next round."""
        self._notified.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._notified.clear()
            self._do()
            self._notified.wait(self._every_seconds)
