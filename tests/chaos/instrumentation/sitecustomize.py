"""Loaded by every Python process that a chaos run starts, before any code of the product.

Python imports a module of this name by itself when its directory is on PYTHONPATH. It does two
things, neither of which the product can see:

- SQLite connections number their transactions, which SQLite itself does not: the triggers that
  record the history ask for the number. (PostgreSQL has `txid_current()`.)
- With HOLDFAST_CHAOS_CLOCK_SECONDS, the process's wall clock is that many seconds ahead (or behind,
  when negative). The clock goes on at its pace, monotonic clocks are left alone, and child processes
  inherit the variable and thus the clock. SQLite's and PostgreSQL's own clocks are not Python's and
  stay right.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from typing import Any

CLOCK_VARIABLE = "HOLDFAST_CHAOS_CLOCK_SECONDS"
connections = itertools.count()


class NumberedConnection(sqlite3.Connection):
    """A connection whose SQL function `history_transaction()` names the transaction at hand."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._name = f"{os.getpid()}.{next(connections)}"
        self._transaction = 0
        self.create_function("history_transaction", 0, lambda: f"{self._name}.{self._transaction}")

    def commit(self) -> None:
        """End the transaction; what follows is another."""
        super().commit()
        self._transaction += 1

    def rollback(self) -> None:
        """Undo the transaction; what follows is another."""
        super().rollback()
        self._transaction += 1


def number_transactions() -> None:
    """Have every SQLite connection opened from now on number its transactions."""
    connect = sqlite3.connect

    def numbered(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **{"factory": NumberedConnection, **options})
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = numbered  # type: ignore[assignment]


def skew_clock(seconds: float) -> None:
    """Set this process's wall clock `seconds` ahead, for as long as it lives."""
    import datetime

    import time_machine

    now = datetime.datetime.now(datetime.UTC)
    time_machine.travel(now + datetime.timedelta(seconds=seconds), tick=True).start()


if __name__ == "sitecustomize":  # and not imported by a test
    number_transactions()
    if os.environ.get(CLOCK_VARIABLE):
        skew_clock(float(os.environ[CLOCK_VARIABLE]))
