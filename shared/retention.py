"""Forgetting the checkpoints of audits that ended long ago: until then they are kept for retries."""

from __future__ import annotations

from sqlalchemy import Engine, func, select, update
from sqlmodel import col

from shared.artifacts import Artifact, ArtifactStore
from shared.database import database_now, reading, transaction
from shared.tables import Audit, Step

CHECKPOINTS_AT_ONCE = 50
SECONDS_PER_DAY = 86_400.0


def forget_old_checkpoints(engine: Engine, store: ArtifactStore, retention_days: float) -> int:
    """Delete at most `CHECKPOINTS_AT_ONCE` checkpoints of audits that ended before so many days.

    The file goes first: whatever fails in between, the row still names it, and it is deleted again.

    Returns:
        How many steps have no checkpoint any more.

    Raises:
        ArtifactStoreUnavailable: the store is away; what is left is for another time.
    """
    query = (
        select(col(Step.id), col(Step.checkpoint), col(Step.checkpoint_sha256))
        .join(Audit, col(Audit.id) == col(Step.audit_id))
        .where(
            col(Step.checkpoint).is_not(None),
            col(Audit.finished_at) < database_now(-retention_days * SECONDS_PER_DAY),
        )
        .limit(CHECKPOINTS_AT_ONCE)
    )
    with reading(engine) as session:
        old = session.execute(query).all()
    for step_id, name, sha256 in old:
        if not _is_named_elsewhere(engine, step_id, name):
            store.delete(Artifact(name, sha256))
        with transaction(engine) as session:
            session.execute(
                update(Step)
                .where(col(Step.id) == step_id)
                .values(checkpoint=None, checkpoint_sha256=None, checkpoint_progress=None)
                .execution_options(synchronize_session=False)
            )
    return len(old)


def _is_named_elsewhere(engine: Engine, step_id: str, name: str) -> bool:
    with reading(engine) as session:
        named: int = session.execute(
            select(func.count())
            .select_from(Step)
            .where(col(Step.checkpoint).is_not(None), col(Step.checkpoint) == name, col(Step.id) != step_id)
        ).scalar_one()
    return named > 0
