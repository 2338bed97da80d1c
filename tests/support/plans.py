"""How SQLite goes about the queries of a piece of code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.event import listen, remove


def query_plans(engine: Engine, work: Callable[[], object]) -> list[str]:
    """The lines of the plans of every SELECT that `work` makes on an SQLite engine."""
    queries: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            queries.append((statement, parameters))

    listen(engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        remove(engine, "before_cursor_execute", note)
    assert queries
    with engine.connect() as connection:
        return [
            row.detail
            for statement, parameters in queries
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
