"""Steps of the kind `prepare`: what an editor needs is made before it edits."""

from __future__ import annotations

from alembic import op

from migrations.conditions import replace_condition

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLE, CONSTRAINT = "step", "ck_step_stepkind"
OLD_KINDS = "kind IN ('plan', 'base', 'edit', 'tune', 'analyse')"
NEW_KINDS = "kind IN ('plan', 'base', 'prepare', 'edit', 'tune', 'analyse')"


def upgrade() -> None:
    replace_condition(TABLE, CONSTRAINT, OLD_KINDS, NEW_KINDS)


def downgrade() -> None:
    """What older code has no word for becomes an edit step, which it fails; other steps may need it."""
    op.execute("UPDATE step SET kind = 'edit' WHERE kind = 'prepare'")
    replace_condition(TABLE, CONSTRAINT, NEW_KINDS, OLD_KINDS)
