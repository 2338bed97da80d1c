"""Runs one server for as long as whoever started it lives.

Started as a script with the server's command; its standard input is a pipe.
The pipe ends when its holder closes it or dies, however it dies: then the server is stopped and its
directory removed. The byte `STOP` stops the server and the byte `START` starts it again. When the
server ends by itself, so does the keeper, and the directory stays to be read.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

STOP_SECONDS = 10.0
STOP = b"s"
START = b"r"


class Kept:
    """The server's process: stopped and started again as asked, until its holder is gone."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._wanted = threading.Condition()
        self.running = True
        self.abandoned = False
        self._server = self._start()

    def wait(self) -> int:
        """Keep the server until it ends by itself or nobody holds it; its exit status."""
        while True:
            status = self._server.wait()
            with self._wanted:
                if self.running:
                    return status
                self._wanted.wait_for(lambda: self.running or self.abandoned)
                if self.abandoned:
                    return status
                self._server = self._start()

    def obey(self) -> None:
        """Do what is asked on standard input; its end ends the server."""
        while (asked := os.read(sys.stdin.fileno(), 1)) in {STOP, START}:
            with self._wanted:
                self.running = asked == START
                self._wanted.notify()
            if asked == STOP:
                self._stop()
        with self._wanted:
            self.running, self.abandoned = False, True
            self._wanted.notify()
        self._stop()

    def _stop(self) -> None:
        self._server.send_signal(signal.Signals[self._arguments.signal])
        try:
            self._server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = self._arguments
        with (arguments.directory / "log").open("ab") as log:
            return subprocess.Popen(
                arguments.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=arguments.directory,
                user=arguments.user,
                group=arguments.group,
                extra_groups=None if arguments.user is None else [],
            )


def main() -> int:
    """Keep the server; return its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    kept = Kept(arguments)
    threading.Thread(target=kept.obey, daemon=True).start()
    status = kept.wait()
    if kept.abandoned:
        shutil.rmtree(arguments.directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
