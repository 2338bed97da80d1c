"""A database whose clock the test turns: `database_now` compiles to SQLite's strftime, which is replaced."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event

from shared.database import create_database_engine
from shared.tables import metadata

START = datetime(2030, 1, 1, tzinfo=UTC)
FORMAT = "%Y-%m-%d %H:%M:%f000"  # what the product asks strftime for


@dataclass
class ClockedDatabase:
    """An SQLite database in memory, and the time that it believes it is."""

    now: datetime = START
    engine: Engine = field(init=False)
    connection: sqlite3.Connection = field(init=False)  # the only one there is

    def __post_init__(self) -> None:
        self.engine = create_database_engine("sqlite://")
        event.listen(self.engine, "connect", self._inject)
        metadata.create_all(self.engine)

    def empty(self) -> None:
        """Begin anew."""
        self.connection.execute("UPDATE step SET source_step_id = NULL")  # steps refer to each other
        for table in reversed(metadata.sorted_tables):
            self.connection.execute(f"DELETE FROM {table.name}")  # noqa: S608 (our own tables)
        self.now = START

    def pass_time(self, seconds: float) -> None:
        """Turn the clock; it never goes back."""
        self.now += timedelta(seconds=seconds)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read past the product's code."""
        return self.connection.execute(query, values).fetchall()

    def contents(self) -> list[list[tuple[Any, ...]]]:
        """Everything there is."""
        return [self.rows(f"SELECT * FROM {table.name}") for table in metadata.sorted_tables]  # noqa: S608

    def _inject(self, connection: sqlite3.Connection, _record: Any) -> None:
        self.connection = connection
        # Constant within a statement, as SQLite's own clock is.
        connection.create_function("strftime", 3, self._strftime, deterministic=True)

    def _strftime(self, pattern: str, moment: str, offset: str) -> str:
        assert (pattern, moment) == (FORMAT, "now")
        seconds, unit = offset.split()
        assert unit == "seconds"
        return (self.now + timedelta(seconds=float(seconds))).strftime("%Y-%m-%d %H:%M:%S.%f")


def moment(text: str | None) -> datetime | None:
    """A point in time as the database keeps it."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
