"""Every member of a command's family holds the write end of a pipe: it reads as ended when all are gone."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.errors import ServiceEnded
from services.cli.processes import Command, Processes
from tests.cli.stand_ins import FAMILY

LONG_SECONDS = 600.0
PATIENCE_SECONDS = 60.0

PARENT = """
import os, sys, time
from pathlib import Path
from services.cli.processes import Command, Processes
from tests.cli.stand_ins import FAMILY
directory, alive, lock = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
processes = Processes(directory, dict(os.environ), grace_seconds=0.1, held_fds=(lock,))
processes.start(Command("family", [sys.executable, "-c", FAMILY, str(alive), "stubborn"], fds=(alive,)))
os.close(alive)
time.sleep(600)
"""


@pytest.fixture
def alive() -> Iterator[tuple[int, int]]:
    """Read and write end of the pipe."""
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def test_stop_ends_the_command_and_what_it_started(tmp_path: Path, alive: tuple[int, int]) -> None:
    processes = start_family(tmp_path, alive, grace_seconds=LONG_SECONDS)

    processes.stop()

    assert all_gone(alive[0])


def test_command_that_ignores_sigterm_is_killed_after_its_grace(
    tmp_path: Path, alive: tuple[int, int]
) -> None:
    processes = start_family(tmp_path, alive, "stubborn", grace_seconds=0.1)

    processes.stop()

    assert all_gone(alive[0])


def test_impatience_cuts_the_grace_short(tmp_path: Path, alive: tuple[int, int]) -> None:
    processes = start_family(tmp_path, alive, "stubborn", grace_seconds=LONG_SECONDS)

    processes.stop(impatient=lambda: True)

    assert all_gone(alive[0])


def test_nothing_outlives_a_killed_parent(tmp_path: Path, alive: tuple[int, int]) -> None:
    with (tmp_path / "lock").open("w") as lock:
        parent = start_parent(tmp_path, alive, lock.fileno())

    parent.kill()
    parent.wait()

    assert all_gone(alive[0])


def test_lock_is_held_until_all_of_a_killed_parent_are_gone(tmp_path: Path, alive: tuple[int, int]) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parent = start_parent(tmp_path, alive, lock.fileno())

    parent.kill()
    parent.wait()

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_blocking(alive[0], False)
        assert os.read(alive[0], 1) == b""


def test_signal_to_the_guardian_ends_the_command(tmp_path: Path, alive: tuple[int, int]) -> None:
    processes = start_family(tmp_path, alive, grace_seconds=LONG_SECONDS)

    for guardian in processes._guardians.values():
        guardian.send_signal(signal.SIGTERM)

    assert all_gone(alive[0])
    processes.stop()


def test_command_that_ended_by_itself_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path, dict(os.environ), grace_seconds=LONG_SECONDS)
    processes.start(Command("worker", [sys.executable, "-c", "import sys; print('no disk'); sys.exit(7)"]))
    for guardian in processes._guardians.values():
        guardian.wait()

    with pytest.raises(ServiceEnded, match=r"(?s)worker ended by itself with status 7.*no disk"):
        processes.check()
    processes.stop()


def test_command_that_cannot_be_run_is_reported_by_name(tmp_path: Path) -> None:
    processes = Processes(tmp_path, dict(os.environ), grace_seconds=LONG_SECONDS)
    processes.start(Command("worker", ["/no/such/program"]))
    for guardian in processes._guardians.values():
        guardian.wait()

    with pytest.raises(ServiceEnded, match="/no/such/program: No such file"):
        processes.check()
    processes.stop()


def start_family(directory: Path, alive: tuple[int, int], *arguments: str, grace_seconds: float) -> Processes:
    reading, writing = alive
    processes = Processes(directory, dict(os.environ), grace_seconds=grace_seconds)
    command = [sys.executable, "-c", FAMILY, str(writing), *arguments]
    processes.start(Command("family", command, fds=(writing,)))
    os.close(writing)
    assert os.read(reading, 1), processes.log("family").read_text()
    return processes


def start_parent(directory: Path, alive: tuple[int, int], lock: int) -> subprocess.Popen[bytes]:
    reading, writing = alive
    arguments = (str(directory), str(writing), str(lock))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], pass_fds=(writing, lock))
    os.close(writing)
    assert os.read(reading, 1), "the parent did not start"
    return parent


def all_gone(reading: int) -> bool:
    """Wait for the family's end, and not for ever."""
    readable, _, _ = select.select([reading], [], [], PATIENCE_SECONDS)
    return bool(readable) and os.read(reading, 1) == b""
