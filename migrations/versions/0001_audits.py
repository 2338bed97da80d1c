"""Audits, their edits, attempts, steps, probe scores, reports, events and outgoing messages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES_IN_ORDER = ("edit_set", "audit", "attempt", "event", "outbox_message", "report", "step", "probe_row")


def one_of(name: str, *words: str) -> sa.Enum:
    """A string column with a CHECK constraint; the naming convention completes its name."""
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "edit_set",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("edit_count", sa.Integer(), nullable=False),
        sa.Column("edits", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_edit_set"),
        sa.UniqueConstraint("content_hash", name="uq_edit_set_content_hash"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("submitter", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("edit_set_id", sa.String(32), nullable=False),
        sa.Column("model_reference", sa.String(500), nullable=False),
        sa.Column("model_revision", sa.String(128), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            one_of(
                "auditstatus",
                "queued",
                "running",
                "cancelling",
                "succeeded",
                "failed",
                "cancelled",
                "expired",
            ),
            nullable=False,
        ),
        sa.Column("verdict", one_of("verdict", "pass", "fail", "inconclusive"), nullable=True),
        sa.Column("cause", one_of("cause", "user", "model", "infrastructure", "timeout"), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["edit_set_id"], ["edit_set.id"], name="fk_audit_edit_set_id_edit_set"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sa.UniqueConstraint("submitter", "idempotency_key", name="uq_audit_submitter_idempotency_key"),
    )
    op.create_index("ix_audit_created_at_id", "audit", ["created_at", "id"])
    op.create_index("ix_audit_status_priority_created_at", "audit", ["status", "priority", "created_at"])

    op.create_table(
        "attempt",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("audit_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("lease_token", sa.String(32), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cause", one_of("cause", "user", "model", "infrastructure", "timeout"), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name="fk_attempt_audit_id_audit"),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
        sa.UniqueConstraint("audit_id", "number", name="uq_attempt_audit_id_number"),
        sa.UniqueConstraint("lease_token", name="uq_attempt_lease_token"),
    )
    op.create_index("ix_attempt_lease_expires_at", "attempt", ["lease_expires_at"])

    op.create_table(
        "event",
        sa.Column("audit_id", sa.String(32), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name="fk_event_audit_id_audit"),
        sa.PrimaryKeyConstraint("audit_id", "sequence", name="pk_event"),
    )
    op.create_table(
        "outbox_message",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("audit_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name="fk_outbox_message_audit_id_audit"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox_message"),
        sa.UniqueConstraint("audit_id", "kind", name="uq_outbox_message_audit_id_kind"),
    )
    op.create_index("ix_outbox_message_sent_at", "outbox_message", ["sent_at"])

    op.create_table(
        "report",
        sa.Column("audit_id", sa.String(32), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("page", sa.String(500), nullable=False),
        sa.Column("page_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name="fk_report_audit_id_audit"),
        sa.PrimaryKeyConstraint("audit_id", name="pk_report"),
    )
    op.create_table(
        "step",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("audit_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", one_of("stepkind", "plan", "base", "edit", "tune", "analyse"), nullable=False),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("needs", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column(
            "status",
            one_of("stepstatus", "pending", "running", "succeeded", "failed", "skipped", "cancelled"),
            nullable=False,
        ),
        sa.Column("lease_token", sa.String(32), nullable=True),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("progress_note", sa.String(255), nullable=True),
        sa.Column("source_step_id", sa.String(32), nullable=True),
        sa.Column("artifact", sa.String(500), nullable=True),
        sa.Column("artifact_sha256", sa.String(64), nullable=True),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("cause", one_of("cause", "user", "model", "infrastructure", "timeout"), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_share"),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name="fk_step_audit_id_audit"),
        sa.ForeignKeyConstraint(["source_step_id"], ["step.id"], name="fk_step_source_step_id_step"),
        sa.PrimaryKeyConstraint("id", name="pk_step"),
        sa.UniqueConstraint("audit_id", "position", name="uq_step_audit_id_position"),
    )
    op.create_index("ix_step_key_status", "step", ["key", "status"])

    op.create_table(
        "probe_row",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.String(32), nullable=False),
        sa.Column("arm", one_of("arm", "base", "base→tuned", "edited", "edited→tuned"), nullable=False),
        sa.Column("tuning_step", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.String(64), nullable=False),
        sa.Column("fact_kind", one_of("factkind", "edit", "control"), nullable=False),
        sa.Column("probe_kind", one_of("probekind", "rewrite", "paraphrase", "neighborhood"), nullable=False),
        sa.Column("probe_index", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("first_token", sa.Boolean(), nullable=False),
        sa.Column("exact", sa.Boolean(), nullable=False),
        sa.Column("preference", sa.Boolean(), nullable=True),
        sa.Column("log_prob_answer", sa.Float(), nullable=False),
        sa.Column("log_prob_alternative", sa.Float(), nullable=True),
        sa.Column("alternative_exact", sa.Boolean(), nullable=True),
        sa.Column("predicted_token", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name="fk_probe_row_step_id_step"),
        sa.PrimaryKeyConstraint("id", name="pk_probe_row"),
    )
    op.create_index("ix_probe_row_step_id_tuning_step", "probe_row", ["step_id", "tuning_step"])


def downgrade() -> None:
    for table in TABLES_IN_ORDER[::-1]:
        op.drop_table(table)
