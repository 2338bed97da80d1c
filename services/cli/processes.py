"""Processes that are started together, watched, and never left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.cli.errors import ServiceEnded
from services.cli.guardian import KILL, TERMINATE

LOOK_EVERY_SECONDS = 0.05
LOG_LINES_SHOWN = 15


@dataclass(frozen=True)
class Command:
    """A process to run: its name, its arguments, and the descriptors it inherits."""

    name: str
    arguments: Sequence[str]
    fds: tuple[int, ...] = ()


class Processes:
    """Each command runs under a guardian that ends it, and all it started, when this process is gone.

    environment: all that the commands see of it. held_fds: descriptors that the guardians keep open
    for as long as a command lives (a lock outlives us until nothing runs any more).
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        grace_seconds: float,
        held_fds: Sequence[int] = (),
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._grace_seconds = grace_seconds
        self._held_fds = tuple(held_fds)
        self._guardians: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, command: Command) -> None:
        """Start a command; what it prints goes to its log."""
        log = self.log(command.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = (str(self._grace_seconds), ",".join(map(str, command.fds)), *command.arguments)
        with log.open("ab") as output:
            self._guardians[command.name] = subprocess.Popen(  # noqa: S603 (our own commands)
                (sys.executable, "-m", "services.cli.guardian", *arguments),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                bufsize=0,
                cwd=self._directory,  # `-m` imports from here first: never from the user's own folder
                env=self._environment,
                pass_fds=(*command.fds, *self._held_fds),
                start_new_session=True,  # a Ctrl-C is ours to handle
            )

    def log(self, name: str) -> Path:
        """Where the command called `name` prints to."""
        return self._directory / "logs" / f"{name}.log"

    def check(self) -> None:
        """Raise `ServiceEnded`, with the end of its log, when a command is no longer running."""
        for name, guardian in self._guardians.items():
            status = guardian.poll()
            if status is not None:
                tail = self.log(name).read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
                raise ServiceEnded(f"The {name} ended by itself with status {status}", "\n".join(tail))

    def stop(self, impatient: Callable[[], bool] = lambda: False) -> None:
        """End the commands, the last started first, each with its grace unless `impatient()`."""
        while self._guardians:
            _, guardian = self._guardians.popitem()
            _tell(guardian, TERMINATE)
            killed = False
            while guardian.poll() is None:
                if impatient() and not killed:
                    _tell(guardian, KILL)
                    killed = True
                time.sleep(LOOK_EVERY_SECONDS)
            _lifeline(guardian).close()


def _tell(guardian: subprocess.Popen[bytes], byte: bytes) -> None:
    with suppress(BrokenPipeError):  # it has ended already
        _lifeline(guardian).write(byte)


def _lifeline(guardian: subprocess.Popen[bytes]) -> IO[bytes]:
    assert guardian.stdin is not None  # noqa: S101 (it was opened as a pipe)
    return guardian.stdin
