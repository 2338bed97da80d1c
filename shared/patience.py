"""Waiting for a database that is away: a restart or a brief outage must not end hours of work."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
READ_ONLY_TRANSACTION = "25006"
SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)

T = TypeVar("T")


def patiently(
    work: Callable[[], T], for_seconds: float = math.inf, pause_seconds: float = RETRY_SECONDS
) -> T:
    """Do `work`, again and again while the database is away, `for_seconds` at most.

    When the connection is lost during a commit nobody can tell whether it took place, so `work` must be
    such that doing it twice does no harm. Whoever waits here for ever is ended by its supervisor.
    """
    told = False
    deadline = time.monotonic() + for_seconds
    while True:
        try:
            return work()
        except DBAPIError as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
            if not told:
                log.warning("the database is away: %s", error.orig)
                told = True
            time.sleep(pause_seconds)


def is_away(error: DBAPIError) -> bool:
    """Whether an error speaks of the connection or the server, not of what was asked."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF in SQLITE_AWAY
    if getattr(error.orig, "sqlstate", None) == READ_ONLY_TRANSACTION:
        return True  # a standby that has not been promoted yet
    return isinstance(error, OperationalError) or error.connection_invalidated
