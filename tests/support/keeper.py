"""Runs one server for as long as whoever started it lives.

Started as a script with the server's command; its standard input is a pipe that nobody writes to.
The pipe ends when its holder closes it or dies, however it dies: then the server is stopped and its
directory removed. When the server ends first, so does the keeper, and the directory stays to be read.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

STOP_SECONDS = 10.0


def main() -> int:
    """Keep the server; return its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    with (arguments.directory / "log").open("wb") as log:
        server = subprocess.Popen(
            arguments.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=arguments.directory,
            user=arguments.user,
            group=arguments.group,
            extra_groups=None if arguments.user is None else [],
        )
    abandoned = threading.Event()

    def stop_when_abandoned() -> None:
        sys.stdin.buffer.read()
        abandoned.set()
        server.send_signal(signal.Signals[arguments.signal])
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()

    threading.Thread(target=stop_when_abandoned, daemon=True).start()
    status = server.wait()
    if abandoned.is_set():
        shutil.rmtree(arguments.directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
