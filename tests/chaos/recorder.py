"""Triggers that copy every change of the tables at stake into an append-only table, in its transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, text

from tests.chaos.history import Record

RECORDED = {
    "audit": (
        "id submitter idempotency_key status verdict cause error event_count priority from_scratch retry_of"
        " created_at expires_at cancel_requested_at started_at finished_at"
    ),
    "attempt": "id audit_id number worker lease_token lease_expires_at started_at ended_at cause error",
    "step": (
        "id audit_id position kind title key status ready_at lease_token deaths progress checkpoint"
        " checkpoint_sha256 source_step_id artifact artifact_sha256 cause error started_at finished_at"
    ),
    "report": "audit_id page created_at",
    "probe_row": "id step_id",
    "event": "audit_id sequence kind data",
    "outbox_message": "id kind audit_id sent_at sent_count",
}
COLUMNS = {table: names.split() for table, names in RECORDED.items()}
OPERATIONS = ("insert", "update", "delete")

SQLITE_TABLE = """
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, transaction_id TEXT NOT NULL,
    table_name TEXT NOT NULL, operation TEXT NOT NULL, old TEXT, new TEXT
)
"""
SQLITE_TRIGGER = """
CREATE TRIGGER history_{table}_{operation} AFTER {operation} ON {table} BEGIN
    INSERT INTO history (at, transaction_id, table_name, operation, old, new) VALUES (
        strftime('%Y-%m-%d %H:%M:%f', 'now'), history_transaction(), '{table}', '{operation}', {old}, {new}
    );
END
"""
SQLITE_APPEND_ONLY = """
CREATE TRIGGER history_stays_{operation} BEFORE {operation} ON history BEGIN
    SELECT RAISE(ABORT, 'the history is append-only');
END
"""
POSTGRESQL_TABLE = """
CREATE TABLE history (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at TIMESTAMPTZ NOT NULL,
    transaction_id TEXT NOT NULL, table_name TEXT NOT NULL, operation TEXT NOT NULL, old JSONB, new JSONB
)
"""
POSTGRESQL_FUNCTIONS = """
CREATE FUNCTION history_columns(whole JSONB, columns TEXT[]) RETURNS JSONB LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_object_agg(key, value) FROM jsonb_each(whole) WHERE key = ANY (columns)
$$;
CREATE FUNCTION record_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO history (at, transaction_id, table_name, operation, old, new) VALUES (
        clock_timestamp(), txid_current()::text, TG_TABLE_NAME, lower(TG_OP),
        CASE WHEN TG_OP <> 'INSERT' THEN history_columns(to_jsonb(OLD), TG_ARGV) END,
        CASE WHEN TG_OP <> 'DELETE' THEN history_columns(to_jsonb(NEW), TG_ARGV) END
    );
    RETURN NULL;
END $$;
CREATE FUNCTION refuse_change_of_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'the history is append-only';
END $$;
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON history
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_history();
"""
POSTGRESQL_TRIGGER = """
CREATE TRIGGER history_{table} AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION record_history({columns})
"""


def install(engine: Engine) -> None:
    """Record every later change of a migrated database.

    On SQLite only connections that number their transactions (see `instrumentation`) can write to it
    from now on.
    """
    statements = _postgresql() if engine.dialect.name == "postgresql" else _sqlite()
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def recorded(engine: Engine) -> Iterator[Record]:
    """What was recorded so far, in order, as records of type `row`."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM history ORDER BY number")).all()
    for row in rows:
        yield {
            "type": "row",
            "at": _seconds(row.at),
            "transaction": row.transaction_id,
            "table": row.table_name,
            "operation": row.operation,
            "old": _values(row.old),
            "new": _values(row.new),
        }


def _sqlite() -> Iterator[str]:
    yield SQLITE_TABLE
    for operation in ("update", "delete"):
        yield SQLITE_APPEND_ONLY.format(operation=operation)
    for table, columns in COLUMNS.items():
        for operation in OPERATIONS:
            old, new = (
                f"json_object({', '.join(f'{column!r}, {side}.{column}' for column in columns)})"
                for side in ("old", "new")
            )
            yield SQLITE_TRIGGER.format(
                table=table,
                operation=operation,
                old="NULL" if operation == "insert" else old,
                new="NULL" if operation == "delete" else new,
            )


def _postgresql() -> Iterator[str]:
    yield POSTGRESQL_TABLE
    yield POSTGRESQL_FUNCTIONS
    for table, columns in COLUMNS.items():
        yield POSTGRESQL_TRIGGER.format(table=table, columns=", ".join(f"'{column}'" for column in columns))


def _values(stored: Any) -> dict[str, Any] | None:
    """A row's columns, alike on both databases."""
    if stored is None:
        return None
    values: dict[str, Any] = json.loads(stored) if isinstance(stored, str) else stored
    for column, value in values.items():
        if value is not None and column.endswith("_at"):
            values[column] = _seconds(value)
        elif column == "data" and isinstance(value, str):
            values[column] = json.loads(value)
        elif column == "from_scratch":
            values[column] = bool(value)
    return values


def _seconds(moment: str | datetime) -> float:
    """Seconds since 1970; SQLite's times have no zone and are in UTC."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
