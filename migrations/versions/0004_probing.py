"""More kinds of probes, the mode `contains`, and what other protocols' metrics are made of."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from migrations.conditions import replace_condition

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE, CONSTRAINT = "probe_row", "ck_probe_row_probekind"
OLD_KINDS = "probe_kind IN ('rewrite', 'paraphrase', 'neighborhood')"
ADDED = "'attribute', 'portability', 'same_subject', 'distracted', 'negated'"
NEW_KINDS = f"{OLD_KINDS[:-1]}, {ADDED})"


def new_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("contains", sa.Boolean(), nullable=True),
        sa.Column("answer_tokens", sa.Integer(), nullable=True),
        sa.Column("answer_hits", sa.Integer(), nullable=True),
        sa.Column("alternative_tokens", sa.Integer(), nullable=True),
        sa.Column("predictions", sa.Text(), nullable=True),
    ]


def upgrade() -> None:
    for column in new_columns():
        op.add_column(TABLE, column)
    replace_condition(TABLE, CONSTRAINT, OLD_KINDS, NEW_KINDS)


def downgrade() -> None:
    """What older code has no word for goes."""
    op.execute(f"DELETE FROM {TABLE} WHERE probe_kind IN ({ADDED})")  # noqa: S608 (of constants)
    replace_condition(TABLE, CONSTRAINT, NEW_KINDS, OLD_KINDS)
    for column in new_columns():
        op.drop_column(TABLE, column.name)
