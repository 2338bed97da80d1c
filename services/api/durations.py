"""How long steps and spells took in the audits of late: what the estimates of new ones rest on.

Every query looks at a bounded number of audits, by an index, however many there have been.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Float, Select, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlmodel import Session, col

from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import Attempt, Audit, Step

AUDITS_AVERAGED = 50
AUDITS_LOOKED_AT = 500
DEFAULT_PRIORITY = 0


class seconds_between(ColumnElement[float]):  # noqa: N801 (reads as the SQL function it is)
    """Seconds from one point in time to another."""

    type = Float()
    inherit_cache = False

    def __init__(self, start: Any, end: Any) -> None:
        self.start, self.end = start, end


@compiles(seconds_between, "sqlite")
def _sqlite_seconds(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(part, **options) for part in (element.start, element.end))
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


@compiles(seconds_between, "postgresql")
def _postgresql_seconds(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(part, **options) for part in (element.start, element.end))
    return f"CAST(extract(epoch FROM {end} - {start}) AS double precision)"


def typical_step_seconds(session: Session, model_reference: str, priority: int) -> dict[StepKind, float]:
    """Mean duration by kind, of steps that were computed for late audits of the same model."""
    for looked_at in dict.fromkeys((priority, DEFAULT_PRIORITY)):
        ended = late_audits(looked_at).limit(AUDITS_LOOKED_AT).subquery()
        audits = select(ended.c.id).where(ended.c.model_reference == model_reference).limit(AUDITS_AVERAGED)
        rows = session.execute(
            select(col(Step.kind), func.avg(seconds_between(col(Step.started_at), col(Step.finished_at))))
            .where(
                col(Step.audit_id).in_(audits),
                col(Step.status) == StepStatus.SUCCEEDED,
                col(Step.source_step_id) == col(Step.id),  # reused ones took no time
            )
            .group_by(col(Step.kind))
        ).all()
        if rows:
            return {kind: float(seconds) for kind, seconds in rows if seconds is not None}
    return {}


def typical_spell_seconds(session: Session, priority: int) -> float | None:
    """Mean time that a worker stayed with one of the late audits."""
    for looked_at in dict.fromkeys((priority, DEFAULT_PRIORITY)):
        audits = select(late_audits(looked_at).limit(AUDITS_AVERAGED).subquery().c.id)
        seconds: float | None = session.execute(
            select(func.avg(seconds_between(col(Attempt.started_at), col(Attempt.ended_at)))).where(
                col(Attempt.audit_id).in_(audits), col(Attempt.ended_at).is_not(None)
            )
        ).scalar_one()
        if seconds is not None:
            return float(seconds)
    return None


def workers_at_work(session: Session) -> int:
    """How many workers have an audit at hand."""
    count: int = session.execute(
        select(func.count(func.distinct(col(Attempt.worker)))).where(col(Attempt.ended_at).is_(None))
    ).scalar_one()
    return count


def late_audits(priority: int) -> Select[Any]:
    """The audits of one priority that succeeded, the latest first."""
    columns: tuple[Any, ...] = (col(Audit.id), col(Audit.model_reference))
    succeeded = (col(Audit.status) == AuditStatus.SUCCEEDED, col(Audit.priority) == priority)
    return select(*columns).where(*succeeded).order_by(col(Audit.created_at).desc())
