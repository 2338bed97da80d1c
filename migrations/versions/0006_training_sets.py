"""Uploaded files of records to train on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OBJECTIVES = ("causal_lm", "instructions", "preference")


def upgrade() -> None:
    op.create_table(
        "training_set",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("submitter", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("suffix", sa.String(16), nullable=False),
        sa.Column(
            "objective",  # the naming convention completes the constraint's name
            sa.Enum(*OBJECTIVES, name="objective", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("shape", sa.String(64), nullable=False),
        sa.Column("record_count", sa.Integer(), nullable=False),
        sa.Column("byte_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_training_set"),
        sa.UniqueConstraint(
            "submitter", "content_hash", "suffix", name="uq_training_set_submitter_content_hash_suffix"
        ),
    )


def downgrade() -> None:
    op.drop_table("training_set")
