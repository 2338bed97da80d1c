"""The file that a worker touches while it lives, and that says what it does."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from shared.settings import Settings

log = logging.getLogger(__name__)

HEARTBEAT_FILE = "worker-heartbeat"
IDLE = "idle"


@dataclass(frozen=True)
class Beat:
    """The last beat: what the worker did, and when, in nanoseconds of the file system's clock."""

    doing: str
    at_nanoseconds: int


def beat(settings: Settings, doing: str) -> None:
    """Say that the worker lives, and what it does."""
    try:
        settings.data_directory.mkdir(parents=True, exist_ok=True)
        _file(settings).write_text(doing)
    except OSError as error:  # a full disk must not end the work
        log.warning("could not write the heartbeat: %s", error)


def last_beat(settings: Settings) -> Beat | None:
    """The last beat of the worker of this data directory; None if there never was one."""
    try:
        at = _file(settings).stat().st_mtime_ns
        return Beat(_file(settings).read_text(), at)
    except FileNotFoundError:
        return None


def is_alive(settings: Settings) -> bool:
    """Whether the last beat is younger than a lease; after that, an audit at hand would be taken over."""
    last = last_beat(settings)
    return last is not None and time.time() - last.at_nanoseconds / 1e9 < settings.lease_seconds


def _file(settings: Settings) -> Path:
    return settings.data_directory / HEARTBEAT_FILE
