"""Steps that stress a model or probe one that was tuned elsewhere, and the arms that stressing leads to."""

from __future__ import annotations

from alembic import op

from migrations.conditions import replace_condition

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STEP, STEP_KIND = "step", "ck_step_stepkind"
OLD_KINDS = "kind IN ('plan', 'base', 'prepare', 'edit', 'tune', 'analyse')"
NEW_KINDS = "kind IN ('plan', 'base', 'prepare', 'edit', 'tune', 'stress', 'probe', 'analyse')"

ROW, ROW_ARM = "probe_row", "ck_probe_row_arm"
OLD_ARMS = "arm IN ('base', 'base→tuned', 'edited', 'edited→tuned')"
NEW_ARMS = "arm IN ('base', 'base→tuned', 'edited', 'edited→tuned', 'base→stressed', 'edited→stressed')"


def upgrade() -> None:
    replace_condition(STEP, STEP_KIND, OLD_KINDS, NEW_KINDS)
    replace_condition(ROW, ROW_ARM, OLD_ARMS, NEW_ARMS)


def downgrade() -> None:
    """What older code has no word for becomes a tuning, which it fails; the scores go."""
    op.execute("DELETE FROM probe_row WHERE arm IN ('base→stressed', 'edited→stressed')")
    op.execute("UPDATE step SET kind = 'tune' WHERE kind IN ('stress', 'probe')")
    replace_condition(ROW, ROW_ARM, NEW_ARMS, OLD_ARMS)
    replace_condition(STEP, STEP_KIND, NEW_KINDS, OLD_KINDS)
