"""Runs one command and never lets it outlive whoever asked for it.

Started as `python -m services.cli.guardian GRACE_SECONDS FDS COMMAND…`. Standard input is the
lifeline: its end-of-file, which also comes when the asker is killed, ends the command's process
group with SIGTERM and, `GRACE_SECONDS` later, SIGKILL. So does the byte `TERMINATE`; the byte `KILL`
ends the group at once. `FDS` names the descriptors that the command inherits, separated by commas
(may be empty). Any other is held for as long as the guardian lives, which is what keeps a lock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

TERMINATE = b"t"
KILL = b"k"


class Guarded:
    """The command, leader of a session and process group of its own."""

    def __init__(self, command: Sequence[str], grace_seconds: float, fds: Sequence[int]) -> None:
        self._grace_seconds = grace_seconds
        self._group_exists = True
        self._lock = threading.RLock()  # re-entrant: the signal handler may interrupt its holder
        self._process = subprocess.Popen(  # noqa: S603 (the asker's own command)
            command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=fds
        )

    def terminate(self) -> None:
        """Ask the group to end, and make it end after the grace."""
        self._signal(signal.SIGTERM)
        timer = threading.Timer(self._grace_seconds, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the group at once."""
        self._signal(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the command, end what it left of its group, and return its exit status."""
        status = self._process.wait()
        with self._lock:
            self.kill()
            self._group_exists = False  # its number may be given to somebody else from here on
        return status if status >= 0 else 128 - status

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._group_exists:
                with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                    os.killpg(self._process.pid, number)


def _watch_lifeline(guarded: Guarded) -> None:
    while byte := os.read(sys.stdin.fileno(), 1):
        if byte == KILL:
            guarded.kill()
        else:
            guarded.terminate()
    guarded.terminate()


def main(arguments: Sequence[str]) -> int:
    """Run the command until it ends or the lifeline does; return its exit status."""
    grace_seconds, fds, *command = arguments
    inherited = [int(fd) for fd in fds.split(",") if fd]
    try:
        guarded = Guarded(command, float(grace_seconds), inherited)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    for fd in inherited:
        os.close(fd)  # a port must close when the command does

    def stop(_number: int, _frame: FrameType | None) -> None:
        guarded.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    threading.Thread(target=_watch_lifeline, args=(guarded,), daemon=True).start()
    return guarded.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
