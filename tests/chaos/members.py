"""One process of the service, which a chaos run starts, hits and starts again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

GRACE_SECONDS = 20.0
START_SECONDS = 20.0


class Member:
    """A process under a guardian, which ends it when the run itself is killed.

    environment: what it sees; may be changed between two starts. fds: descriptors it inherits.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.environment = dict(environment)
        self.directory = directory
        self._command = tuple(command)
        self._fds = tuple(fds)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None

    @property
    def pid(self) -> int:
        """Number of the process; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def worker_name(self) -> str:
        """What attempts call it, if it is a worker."""
        return f"{socket.gethostname()}:{self.pid}"

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._guardian is not None and self._guardian.poll() is None

    def start(self) -> None:
        """Start the process, unless it runs; what it prints goes to its log."""
        if self.is_running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = (str(GRACE_SECONDS), ",".join(map(str, self._fds)), *self._command)
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self._guardian = subprocess.Popen(
                (sys.executable, "-m", "services.cli.guardian", *arguments),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environment,
                pass_fds=self._fds,
                start_new_session=True,
            )
        self._process = self._guarded(self._guardian)

    def children(self) -> list[psutil.Process]:
        """The children that own a model, if it is a worker."""
        if self._process is None:
            return []
        try:
            return [
                child for child in self._process.children() if "services.worker.runner" in child.cmdline()
            ]
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: signal.Signals) -> None:
        """Send the process itself a signal."""
        if self.is_running and self._process is not None:
            try:
                self._process.send_signal(number)
            except psutil.NoSuchProcess:
                return

    def stop(self) -> None:
        """End the process and all it started; kill it when it takes too long."""
        if self._guardian is None or self._guardian.stdin is None:
            return
        self.signal(signal.SIGCONT)
        self._guardian.stdin.close()  # the guardian sends SIGTERM, and SIGKILL after the grace
        self._guardian.wait()

    def _guarded(self, guardian: subprocess.Popen[bytes]) -> psutil.Process:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            children = psutil.Process(guardian.pid).children()
            if children:
                return children[0]
            if guardian.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start; see {self.directory / self.name}.log")


def signal_group(child: psutil.Process, number: signal.Signals) -> None:
    """Signal a model-owning child and all it started."""
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return
