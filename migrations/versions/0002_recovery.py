"""Deadlines, turns, retries, readiness of steps, checkpoints, and indexes over what has not ended.

Stop the old version's workers first: a step that one of them is at is taken up again from its start.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
INDEXES = [
    ("ix_audit_open_expires_at", "audit", ["expires_at"], "finished_at IS NULL", False),
    ("ix_attempt_open_lease_expires_at", "attempt", ["lease_expires_at"], "ended_at IS NULL", False),
    ("ix_attempt_open_audit_id", "attempt", ["audit_id"], "ended_at IS NULL", False),
    ("ix_step_ready", "step", ["audit_id", "ready_at"], "ready_at IS NOT NULL", False),
    ("ix_step_checkpoint_key", "step", ["key"], "checkpoint IS NOT NULL", False),
    ("uq_step_running_key", "step", ["key"], "status = 'running'", True),
]


def new_columns() -> list[tuple[str, sa.Column[Any]]]:
    """Each new column, after the name of its table."""
    return [
        ("audit", sa.Column("run_seconds", sa.Integer(), nullable=True)),
        ("audit", sa.Column("from_scratch", sa.Boolean(), server_default=sa.false(), nullable=False)),
        ("audit", sa.Column("retry_of", sa.String(32), nullable=True)),
        ("audit", sa.Column("expires_at", TIME, nullable=True)),
        ("audit", sa.Column("served_at", TIME, nullable=True)),
        ("audit", sa.Column("cancel_requested_at", TIME, nullable=True)),
        ("step", sa.Column("code_version", sa.String(64), nullable=True)),
        ("step", sa.Column("ready_at", TIME, nullable=True)),
        ("step", sa.Column("delays", sa.Integer(), server_default="0", nullable=False)),
        ("step", sa.Column("damages", sa.Integer(), server_default="0", nullable=False)),
        ("step", sa.Column("progressed_at", TIME, nullable=True)),
        ("step", sa.Column("checkpoint", sa.String(500), nullable=True)),
        ("step", sa.Column("checkpoint_sha256", sa.String(64), nullable=True)),
        ("step", sa.Column("checkpoint_progress", sa.Float(), nullable=True)),
        ("outbox_message", sa.Column("sent_count", sa.Integer(), server_default="0", nullable=False)),
    ]


def upgrade() -> None:
    op.create_table(
        "submitter",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("served_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_submitter"),
    )
    for table, column in new_columns():
        op.add_column(table, column)
    op.execute("UPDATE step SET status = 'pending', lease_token = NULL WHERE status = 'running'")
    op.execute("UPDATE audit SET cancel_requested_at = CURRENT_TIMESTAMP WHERE status = 'cancelling'")
    make_ready()
    op.drop_index("ix_attempt_lease_expires_at", "attempt")
    for name, table, columns, where, unique in INDEXES:
        op.create_index(
            name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )


def downgrade() -> None:
    for name, table, *_ in INDEXES:
        op.drop_index(name, table)
    op.create_index("ix_attempt_lease_expires_at", "attempt", ["lease_expires_at"])
    for table, column in new_columns():
        op.drop_column(table, column.name)
    op.drop_table("submitter")


def make_ready() -> None:
    """Let workers take every waiting step whose needs are met; what only waits for those follows later."""
    connection = op.get_bind()
    steps = connection.execute(
        sa.text(
            "SELECT step.id, step.kind, step.status, step.needs"
            " FROM step JOIN audit ON audit.id = step.audit_id WHERE audit.finished_at IS NULL"
        )
    ).all()
    status_of = {step.id: step.status for step in steps}
    for step in steps:
        needs = json.loads(step.needs) if isinstance(step.needs, str) else step.needs
        met = {status_of[needed] for needed in needs} <= (
            {"succeeded", "failed", "skipped"} if step.kind == "analyse" else {"succeeded"}
        )
        if step.status == "pending" and met:
            connection.execute(
                sa.text("UPDATE step SET ready_at = CURRENT_TIMESTAMP WHERE id = :id"), {"id": step.id}
            )
