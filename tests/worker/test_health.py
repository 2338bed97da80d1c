"""A worker shows that it lives, on either broker, and its absence or silence shows too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.worker.health import at_work, beat_if_idle
from services.worker.heartbeat import HEARTBEAT_FILE, IDLE, beat, is_alive, last_beat
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
WORKER = (sys.executable, "-m", "celery", "-A", "services.worker.app", "worker", "--pool", "solo")
WAIT_SECONDS = 60.0


@contextmanager
def worker(**environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        WORKER,
        cwd=ROOT,
        env=os.environ | {"HOLDFAST_HEARTBEAT_SECONDS": "0.1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for_beat_after(file: Path, moment: float) -> float:
    """Time of the first beat after `moment`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not file.exists() or file.stat().st_mtime <= moment:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.05)
    return file.stat().st_mtime


def test_idle_worker_keeps_beating_on_folders(tmp_path: Path) -> None:
    with worker(HOLDFAST_DATA_DIRECTORY=str(tmp_path)):
        first = wait_for_beat_after(tmp_path / HEARTBEAT_FILE, 0)
        wait_for_beat_after(tmp_path / HEARTBEAT_FILE, first)


def test_idle_worker_keeps_beating_on_redis(tmp_path: Path, redis_url: str) -> None:
    with worker(HOLDFAST_DATA_DIRECTORY=str(tmp_path), HOLDFAST_BROKER_URL=redis_url):
        first = wait_for_beat_after(tmp_path / HEARTBEAT_FILE, 0)
        wait_for_beat_after(tmp_path / HEARTBEAT_FILE, first)


def test_worker_says_that_it_is_idle_between_tasks_only(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    beat_if_idle(settings)
    with at_work(settings):
        beat(settings, "audit 1")
        beat_if_idle(settings)
        during = last_beat(settings)
    after = last_beat(settings)
    assert (during and during.doing, after and after.doing) == ("audit 1", IDLE)


def test_worker_that_never_beat_is_not_alive(tmp_path: Path) -> None:
    assert not is_alive(Settings(data_directory=tmp_path))


def test_worker_that_has_just_beaten_is_alive(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    beat(settings, IDLE)
    assert is_alive(settings)


def test_worker_silent_for_longer_than_a_lease_is_not_alive(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path, lease_seconds=30)
    beat(settings, IDLE)
    long_ago = time.time() - 31
    os.utime(tmp_path / HEARTBEAT_FILE, (long_ago, long_ago))
    assert not is_alive(settings)


@pytest.mark.parametrize(("beaten", "status"), [(True, 0), (False, 1)])
def test_health_command_tells_by_its_exit_status(beaten: bool, status: int, tmp_path: Path) -> None:
    if beaten:
        beat(Settings(data_directory=tmp_path), IDLE)
    environment = os.environ | {"HOLDFAST_DATA_DIRECTORY": str(tmp_path)}
    command = [sys.executable, "-m", "services.worker.health"]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == status
