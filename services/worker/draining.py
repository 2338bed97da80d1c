"""A worker that drains ends the step at hand and takes nothing more, until it is started again.

The sign is a file in the worker's data directory, next to its heartbeat.
"""

from __future__ import annotations

from pathlib import Path

from shared.settings import Settings

DRAIN_FILE = "worker-drain"


def request_drain(settings: Settings) -> int:
    """Have the worker of this data directory drain; the moment, in nanoseconds of the file system's clock."""
    settings.data_directory.mkdir(parents=True, exist_ok=True)
    _file(settings).touch()
    return _file(settings).stat().st_mtime_ns


def end_drain(settings: Settings) -> None:
    """Let the worker take work again; a worker that starts does so."""
    _file(settings).unlink(missing_ok=True)


def is_draining(settings: Settings) -> bool:
    """Whether the worker is to take nothing more."""
    return _file(settings).exists()


def _file(settings: Settings) -> Path:
    return settings.data_directory / DRAIN_FILE
