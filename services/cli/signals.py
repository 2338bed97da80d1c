"""The signals that ask the command line to stop, as one exception."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the command to stop. Not an `Exception`, so that no handler swallows it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell says of a command ended by this signal."""
        return 128 + self.number


class StopSignals:
    """Within this context the first stop signal raises `Interrupted`, and only the first.

    Whoever cleans up sets `deferred`, so that nothing is raised in the middle of it, and looks at
    `repeated` to learn that the user has no patience left.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.repeated = False
        self._raised = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.deferred or self._raised:
            self.repeated = True
            return
        self._raised = True
        raise Interrupted(signal.Signals(number))
