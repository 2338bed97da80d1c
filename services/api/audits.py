"""Finding audits, showing where they stand, and having them stopped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import Engine, Row, Select, literal, select, tuple_
from sqlmodel import Session, col

from services.api import cursors
from services.api.authentication import Principal
from services.api.durations import typical_spell_seconds, typical_step_seconds, workers_at_work
from services.api.estimates import Estimate, seconds_until_taken
from services.api.phases import expected_steps, phases, resumed_shares, telling_events
from services.api.problems import AuditEnded, AuditNotFound
from shared.audit_moves import request_cancel
from shared.database import UtcDateTime, database_now, reading, transaction
from shared.queue_order import queue_position
from shared.states import AuditStatus, IllegalTransition, StepStatus, Verdict
from shared.tables import Attempt, Audit, EditSet, Step
from shared.views import AttemptView, AuditPage, AuditSummary, AuditView, DeadlinesView, StepView

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
    col(Audit.retry_of),
    col(Audit.from_scratch),
)
DEADLINE_COLUMNS: tuple[Any, ...] = (col(Audit.expires_at), col(Audit.run_seconds))


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
    """An audit with its steps, attempts, phases, place in the queue and estimated time left.

    Raises:
        AuditNotFound: there is none of that id that the principal may see.
    """
    with reading(engine) as session:
        audit = _find(session, principal, audit_id, *DETAIL_COLUMNS, *DEADLINE_COLUMNS)
        steps = session.execute(
            select(Step).where(col(Step.audit_id) == audit_id).order_by(col(Step.position))
        ).scalars()
        attempts = session.execute(
            select(Attempt).where(col(Attempt.audit_id) == audit_id).order_by(col(Attempt.number))
        ).scalars()
        return _view(session, audit, steps.all(), attempts.all())


def _view(session: Session, audit: Row[Any], steps: Sequence[Step], attempts: Sequence[Attempt]) -> AuditView:
    events = telling_events(session, audit.id)
    waiting = audit.status in {AuditStatus.QUEUED, AuditStatus.RUNNING}
    estimate = Estimate(
        steps,
        now=session.execute(select(database_now())).scalar_one(),
        history=typical_step_seconds(session, audit.model, audit.priority) if waiting else {},
        expected=expected_steps(events),
        resumed=resumed_shares(events),
    )
    at_work = sum(attempt.ended_at is None for attempt in attempts)
    position = queue_position(session, audit.id) if audit.status is AuditStatus.QUEUED else None
    return AuditView(
        **{name: getattr(audit, name) for name in audit._fields if name in AuditView.model_fields},
        progress=estimate.share_done(),
        seconds_left=estimate.total_seconds_left(at_work) if waiting else None,
        queue_position=position,
        starts_in_seconds=_starts_in(session, audit.priority, position),
        deadlines=DeadlinesView(
            expires_at=None if audit.status.is_terminal else audit.expires_at, run_seconds=audit.run_seconds
        ),
        steps=[_step_view(step, estimate) for step in steps],
        attempts=[_attempt_view(attempt, steps) for attempt in attempts],
        phase_history=phases(events),
        links=links(audit.id),
    )


def _starts_in(session: Session, priority: int, position: int | None) -> float | None:
    if position is None or (workers := workers_at_work(session)) == 0:
        return None
    return seconds_until_taken(position, workers, typical_spell_seconds(session, priority))


def find(session: Session, principal: Principal, audit_id: str, *further: Any) -> Row[Any]:
    """The id, status, error and `further` columns of an audit and its edit set.

    Raises:
        AuditNotFound: there is none of that id that the principal may see.
    """
    columns = (col(Audit.id), col(Audit.status), col(Audit.error), *further)
    return _find(session, principal, audit_id, *columns)


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
    parts = ("events", "results", "report", "cancel", "retry")
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


def _step_view(step: Step, estimate: Estimate) -> StepView:
    return StepView(
        **step.model_dump(include=set(StepView.model_fields)),
        seconds_left=None if step.status.is_terminal else estimate.seconds_left(step),
        reused=step.source_step_id not in {None, step.id},
    )


def _attempt_view(attempt: Attempt, steps: Sequence[Step]) -> AttemptView:
    at_hand = next((step for step in steps if _is_held(step, attempt)), None)
    return AttemptView(
        **attempt.model_dump(include=set(AttemptView.model_fields)),
        step_id=at_hand.id if at_hand else None,
        step=at_hand.title if at_hand else None,
    )


def _is_held(step: Step, attempt: Attempt) -> bool:
    return step.status is StepStatus.RUNNING and step.lease_token == attempt.lease_token
