"""What a model answers, up to where it differs from the answer asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("probe_row", sa.Column("predicted_answer", sa.String(255), nullable=True))


def downgrade() -> None:
    op.drop_column("probe_row", "predicted_answer")
