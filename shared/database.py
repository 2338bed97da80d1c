"""Engine and sessions for SQLite and PostgreSQL, and the one clock that leases are judged by."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CursorResult, DateTime, Dialect, Engine, Float, create_engine, event, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session

SQLITE_BUSY_TIMEOUT_MILLISECONDS = 30_000
WAL_RETRY_SECONDS = 0.02
# A process that stands still in a transaction (stopped, swapped out, cut off) must not keep its locks for
# longer than a worker may be silent: transactions here last milliseconds.
POSTGRESQL_CONNECT_ARGUMENTS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds; a server that is gone without a word is found out as fast
    "options": "-c idle_in_transaction_session_timeout=20s -c lock_timeout=30s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; always aware and in UTC on the Python side, on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes: a missing zone is a bug, not a default."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime; use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets the zone; it was UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801 (reads as the SQL function it is)
    """The database's own clock, `offset_seconds` from now: workers' clocks are not to be trusted.

    The offset is a parameter of the statement, so that statements are compiled once.
    """

    name = "database_now"
    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, offset_seconds: float = 0.0) -> None:
        super().__init__(literal(offset_seconds, Float()))


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {offset}))"


@compiles(database_now, "postgresql")
def _postgresql_now(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + {offset} * interval '1 second')"


def create_database_engine(url: str) -> Engine:
    """An engine with what each database needs to be trusted with concurrent writers.

    SQLite: WAL, foreign keys, a busy timeout, and BEGIN IMMEDIATE, since a transaction that reads
    first and writes later would otherwise fail at once instead of waiting for the lock. What only
    reads (see `reading`) takes no lock.
    """
    if not url.startswith("sqlite"):
        return create_engine(
            url, pool_pre_ping=True, hide_parameters=True, connect_args=POSTGRESQL_CONNECT_ARGUMENTS
        )
    engine = create_engine(
        url, hide_parameters=True, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_MILLISECONDS / 1000}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions on its own
        _use_write_ahead_log(connection)
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            f"busy_timeout = {SQLITE_BUSY_TIMEOUT_MILLISECONDS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        only_reads = connection.get_execution_options().get("only_reads", False)
        connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch a database to WAL, once and for all connections.

    Alone among statements the switch does not wait for a lock, whatever the busy timeout: of two
    processes that open a new database at once, one is told that it is locked.
    """
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_SECONDS)


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A short session that commits at its end or leaves nothing behind.

    Never held across network or model work.
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A short session that sees one state of the database throughout; it waits for no writer, nor
    makes one wait.
    """
    options = (
        {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        if engine.dialect.name == "postgresql"
        else {"only_reads": True}
    )
    with Session(engine.execution_options(**options), expire_on_commit=False) as session:
        yield session


def changed_rows(result: object) -> int:
    """How many rows an UPDATE or DELETE changed."""
    assert isinstance(result, CursorResult)  # noqa: S101 (narrowing for the type checker)
    return result.rowcount
