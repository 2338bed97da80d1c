"""A worker that is asked to drain is waited for; where none is, that is said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.draining import NoWorker, ask_to_drain, wait_until_idle
from services.worker.draining import is_draining
from services.worker.heartbeat import HEARTBEAT_FILE, IDLE, beat, is_alive
from shared.settings import Settings

NANOSECONDS = 10**9
PATIENCE_SECONDS = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_directory=tmp_path)


def set_beat(settings: Settings, doing: str, at_nanoseconds: int) -> None:
    beat(settings, doing)
    os.utime(settings.data_directory / HEARTBEAT_FILE, ns=(at_nanoseconds, at_nanoseconds))


def worker_that(*beats: Callable[[], None]) -> Callable[[float], None]:
    """What to do instead of sleeping: at each look the worker beats once more."""
    to_come = iter(beats)
    return lambda _seconds: next(to_come)()


def test_worker_that_is_asked_drains(settings: Settings) -> None:
    beat(settings, IDLE)
    ask_to_drain(settings)
    assert is_draining(settings)


def test_worker_at_an_audit_is_waited_for(settings: Settings) -> None:
    beat(settings, "audit 1")
    asked = ask_to_drain(settings)
    later = asked + NANOSECONDS
    sleep = worker_that(lambda: set_beat(settings, "audit 1", later), lambda: set_beat(settings, IDLE, later))
    assert list(wait_until_idle(settings, asked, sleep)) == [
        "It is at audit 1 and ends the step at hand.",
        "The worker is idle: stop it, or start it anew to have it take work again.",
    ]


def test_worker_that_was_idle_before_it_was_asked_may_have_begun_since(settings: Settings) -> None:
    beat(settings, IDLE)
    asked = ask_to_drain(settings)
    set_beat(settings, IDLE, asked - 1)
    later = asked + NANOSECONDS
    sleep = worker_that(lambda: set_beat(settings, "audit 2", later), lambda: set_beat(settings, IDLE, later))
    first, _ = wait_until_idle(settings, asked, sleep)
    assert first == "It is at audit 2 and ends the step at hand."


def test_no_worker_is_asked_where_none_is_alive(settings: Settings) -> None:
    set_beat(settings, IDLE, int((time.time() - settings.lease_seconds - 1) * NANOSECONDS))
    with pytest.raises(NoWorker, match=str(settings.data_directory)):
        ask_to_drain(settings)
    assert not is_draining(settings)


def test_worker_that_dies_meanwhile_is_not_waited_for(settings: Settings) -> None:
    beat(settings, "audit 1")
    asked = ask_to_drain(settings)
    sleep = worker_that(lambda: set_beat(settings, "audit 1", asked - 3600 * NANOSECONDS))
    with pytest.raises(NoWorker, match="no sign of life any more"):
        list(wait_until_idle(settings, asked, sleep))


def test_command_drains_a_real_worker(settings: Settings) -> None:
    environment = os.environ | {
        "HOLDFAST_DATA_DIRECTORY": str(settings.data_directory),
        "HOLDFAST_HEARTBEAT_SECONDS": "0.1",
    }
    holdfast = (sys.executable, "-c", "from services.cli.main import app; app()")
    with subprocess.Popen(
        (*holdfast, "worker"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not is_alive(settings):
                assert time.monotonic() < deadline, "no heartbeat"
                time.sleep(0.05)
            drained = subprocess.run(
                (*holdfast, "worker", "drain"), env=environment, capture_output=True, text=True, check=False
            )
        finally:
            worker.terminate()
    assert drained.returncode == 0, drained.stderr
    assert "The worker is idle" in drained.stderr
