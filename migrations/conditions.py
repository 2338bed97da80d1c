"""Changing what a CHECK constraint says, on either database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def replace_condition(table: str, constraint: str, old: str, new: str) -> None:
    """Put another condition into a CHECK constraint.

    SQLite has no statement for it and is given the table's definition anew, as its documentation has it for
    a CHECK (lang_altertable, section 7): a copy of the table would take the rows that refer to it along.
    """
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint(op.f(constraint), table, type_="check")
        op.create_check_constraint(op.f(constraint), table, sa.text(new))
        return
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = connection.execute(
        sa.text(
            "UPDATE sqlite_schema SET sql = replace(sql, :old, :new)"
            " WHERE type = 'table' AND name = :table AND instr(sql, :old) > 0"
        ),
        {"old": old, "new": new, "table": table},
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")
    if changed.rowcount != 1:
        raise RuntimeError(f"{constraint} does not say: {old}")
