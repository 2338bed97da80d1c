"""Finding audits, showing where they stand, and having them stopped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import Engine, Row, Select, literal, select, tuple_
from sqlmodel import Session, col

from services.api import cursors
from services.api.authentication import Principal
from services.api.estimates import seconds_left, share_done, total_seconds_left
from services.api.problems import AuditEnded, AuditNotFound
from shared.audit_moves import request_cancel
from shared.claims import queue_position
from shared.database import UtcDateTime, database_now, reading, transaction
from shared.states import AuditStatus, IllegalTransition, Verdict
from shared.tables import Attempt, Audit, EditSet, Step
from shared.views import AttemptView, AuditPage, AuditSummary, AuditView, StepView

ID = re.compile(r"[0-9a-f]{32}")


class Place(BaseModel):
    """Where a page of audits ended."""

    created_at: AwareDatetime
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


@dataclass(frozen=True)
class AuditFilter:
    """Which audits to list; None selects all."""

    status: AuditStatus | None = None
    verdict: Verdict | None = None
    label: tuple[str, str] | None = None


SUMMARY_COLUMNS: tuple[Any, ...] = (
    col(Audit.id),
    col(Audit.status),
    col(Audit.verdict),
    col(Audit.model_reference).label("model"),
    col(EditSet.edit_count),
    col(Audit.labels),
    col(Audit.priority),
    col(Audit.submitter),
    col(Audit.created_at),
    col(Audit.started_at),
    col(Audit.finished_at),
)
DETAIL_COLUMNS: tuple[Any, ...] = (
    *SUMMARY_COLUMNS,
    col(Audit.model_revision),
    col(Audit.edit_set_id),
    col(EditSet.content_hash).label("edit_set_hash"),
    col(Audit.cause),
    col(Audit.error),
)


def page(
    engine: Engine, principal: Principal, wanted: AuditFilter, limit: int, cursor: str | None
) -> AuditPage:
    """Audits, newest first, from `cursor` on. Ones that arrive meanwhile change no later page."""
    query = _visible(select(*SUMMARY_COLUMNS).join(EditSet), principal)
    if wanted.status is not None:
        query = query.where(col(Audit.status) == wanted.status)
    if wanted.verdict is not None:
        query = query.where(col(Audit.verdict) == wanted.verdict)
    if wanted.label is not None:
        key, value = wanted.label
        query = query.where(col(Audit.labels)[key].as_string() == value)
    order = tuple_(col(Audit.created_at), col(Audit.id))
    if cursor is not None:
        place = cursors.decode(Place, cursor)
        query = query.where(order < tuple_(literal(place.created_at, UtcDateTime()), literal(place.id)))
    query = query.order_by(col(Audit.created_at).desc(), col(Audit.id).desc()).limit(limit + 1)
    with reading(engine) as session:
        rows = session.execute(query).all()
    items = [AuditSummary.model_validate(row._asdict()) for row in rows[:limit]]
    if len(rows) <= limit:
        return AuditPage(items=items, next_cursor=None)
    last = Place(created_at=items[-1].created_at, id=items[-1].id)
    return AuditPage(items=items, next_cursor=cursors.encode(last))


def view(engine: Engine, principal: Principal, audit_id: str) -> AuditView:
    """An audit with its steps, attempts, place in the queue and estimated time left.

    Raises:
        AuditNotFound: there is none of that id that the principal may see.
    """
    with reading(engine) as session:
        audit = _find(session, principal, audit_id, *DETAIL_COLUMNS)
        steps = list(
            session.execute(
                select(Step).where(col(Step.audit_id) == audit_id).order_by(col(Step.position))
            ).scalars()
        )
        attempts = session.execute(
            select(Attempt).where(col(Attempt.audit_id) == audit_id).order_by(col(Attempt.number))
        ).scalars()
        now: datetime = session.execute(select(database_now())).scalar_one()
        left = seconds_left(steps, now)
        waiting = audit.status in {AuditStatus.QUEUED, AuditStatus.RUNNING}
        return AuditView(
            **audit._asdict(),
            progress=share_done(steps),
            seconds_left=total_seconds_left(left) if waiting else None,
            queue_position=queue_position(session, audit_id),
            steps=[_step_view(step, left[step.id]) for step in steps],
            attempts=[AttemptView.model_validate(attempt, from_attributes=True) for attempt in attempts],
            links=links(audit_id),
        )


def find(session: Session, principal: Principal, audit_id: str) -> Row[Any]:
    """The id, status and error of an audit that the principal may see; raises AuditNotFound."""
    return _find(session, principal, audit_id, col(Audit.id), col(Audit.status), col(Audit.error))


def cancel(engine: Engine, principal: Principal, audit_id: str) -> None:
    """Have an audit stopped: at once while it waits, by its worker while it runs.

    Raises:
        AuditNotFound: there is none of that id that the principal may see.
        AuditEnded: it has ended.
    """
    with transaction(engine) as session:
        find(session, principal, audit_id)
        try:
            request_cancel(session, audit_id)
        except IllegalTransition as refused:
            raise AuditEnded(audit_id, refused.current) from None


def links(audit_id: str) -> dict[str, str]:
    """Where to go on from an audit."""
    here = f"/audits/{audit_id}"
    parts = ("events", "results", "report", "cancel")
    return {"self": here, **{part: f"{here}/{part}" for part in parts}}


def _find(session: Session, principal: Principal, audit_id: str, *columns: Any) -> Row[Any]:
    found = None
    if ID.fullmatch(audit_id):
        query = select(*columns).select_from(Audit).join(EditSet).where(col(Audit.id) == audit_id)
        found = session.execute(_visible(query, principal)).one_or_none()
    if found is None:
        raise AuditNotFound(audit_id)
    return found


def _visible(query: Select[Any], principal: Principal) -> Select[Any]:
    return query if principal.sees_all else query.where(col(Audit.submitter) == principal.submitter)


def _step_view(step: Step, left: float | None) -> StepView:
    return StepView(
        **step.model_dump(include=set(StepView.model_fields)),
        seconds_left=None if step.status.is_terminal else left,
        reused=step.source_step_id not in {None, step.id},
    )
