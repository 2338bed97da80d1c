"""How far a piece of work has come, told as it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]  # called with the work done and the whole

Advance = Callable[[int], None]  # called with the work done since the last call


def untold(_done: int, _whole: int) -> None:
    """Progress that nobody wants to know."""


def uncounted(_work: int) -> None:
    """Work that nobody adds up."""


class WorkDone:
    """Adds up work and reports it; `done` has been done before."""

    def __init__(self, progress: Progress, whole: int, done: int = 0) -> None:
        self.progress = progress
        self.whole = whole
        self.done = done

    def advance(self, work: int) -> None:
        """Count `work` as done."""
        self.done += work
        self.progress(self.done, self.whole)

    def finish(self) -> None:
        """Count what is left as done: it turned out not to be needed."""
        self.advance(self.whole - self.done)

    @contextmanager
    def taken_back_on_failure(self) -> Iterator[None]:
        """Count nothing of what is done inside if it fails, for then it is done again."""
        before = self.done
        try:
            yield
        except BaseException:
            self.done = before
            raise
