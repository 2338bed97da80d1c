"""The process that owns the model, as its supervisor sees it: handed work, watched, paused and ended.

It leads a process group of its own, so that nothing it started outlives it. Its standard input stays open:
the end of that file tells it that the supervisor is gone.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from enum import Enum, auto

from services.worker.orders import Order, lease_line, order_line
from shared.leases import Lease

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "services.worker.runner")
ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA does not repeat its sums
    # glibc hands large blocks back at once and gets them back page by page; keeping them halves the
    # time of sampling text on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
EXIT_LOOK_SECONDS = 0.01


class Sign(Enum):
    """What a child has shown of itself."""

    AT_WORK = auto()
    LEFT = auto()  # it ended its attempt and waits for the next lease
    ENDED = auto()


class Child:
    """One process and its group."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 (our own command)
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=ENVIRONMENT | os.environ,
        )
        self._paused = False

    def hand(self, lease: Lease) -> None:
        """Have it work under `lease`."""
        self._write(lease_line(lease))

    def order(self, order: Order) -> None:
        """Tell it something while it works."""
        self._write(order_line(order))

    def wait(self, seconds: float) -> Sign:
        """Its next sign, or `AT_WORK` when `seconds` pass without one."""
        assert self._process.stdout is not None  # noqa: S101 (it was opened as a pipe)
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            return Sign.AT_WORK
        return Sign.LEFT if self._process.stdout.read(4096) else Sign.ENDED

    def pause(self) -> None:
        """Have it stop computing, keeping all it has.

        It stops by itself, where it next shows progress: SIGSTOP could hit it in a transaction, whose
        locks would then keep everybody from writing, even its supervisor from renewing its lease.
        """
        if not self._paused:
            log.warning("the child is paused until its lease has been renewed")
            self.order(Order.PAUSE)
            self._paused = True

    def resume(self) -> None:
        """Let it go on, if it is paused."""
        if self._paused:
            self.order(Order.RESUME)
            self._paused = False

    def terminate(self) -> None:
        """Ask its group to end."""
        self._signal(signal.SIGTERM)
        self.resume()

    def kill(self) -> None:
        """End its group at once."""
        self._signal(signal.SIGKILL)

    def end(self, grace_seconds: float = 0.0) -> int:
        """Leave nothing of its group behind and reap it; its exit status, negative for a signal.

        grace_seconds: how long it may take to end by itself. Ending it again changes nothing.
        """
        if self._process.returncode is not None:
            return self._process.returncode
        deadline = time.monotonic() + grace_seconds
        while not self._has_exited() and time.monotonic() < deadline:
            time.sleep(EXIT_LOOK_SECONDS)
        self.kill()  # before it is reaped: afterwards its group's number may belong to others
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def has_ended(self) -> bool:
        """Whether it has ended, or is about to, without having been asked."""
        assert self._process.stdout is not None  # noqa: S101 (it was opened as a pipe)
        return bool(select.select([self._process.stdout], [], [], 0)[0]) or self._has_exited()

    def _has_exited(self) -> bool:
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 (it was opened as a pipe)
        try:
            self._process.stdin.write(line)
        except BrokenPipeError:
            log.warning("the child ended before it could be told")

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            log.debug("the child had ended already")
