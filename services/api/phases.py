"""What an audit's events tell about it: its phases, its size, and what was taken up from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlmodel import Session, col

from shared.states import AuditStatus, StepKind
from shared.tables import Event
from shared.views import PhaseView

SUBMITTED = "audit.submitted"
ATTEMPT_ENDED = "attempt.ended"
RESUMED = "step.resumed"
STATUS_OF_EVENT = {SUBMITTED: AuditStatus.QUEUED} | {f"audit.{status}": status for status in AuditStatus}


def telling_events(session: Session, audit_id: str) -> Sequence[Row[Any]]:
    """The events that the functions below read, in order."""
    kinds = [*STATUS_OF_EVENT, ATTEMPT_ENDED, RESUMED]
    query = select(col(Event.at), col(Event.kind), col(Event.data)).where(
        col(Event.audit_id) == audit_id, col(Event.kind).in_(kinds)
    )
    return session.execute(query.order_by(col(Event.sequence))).all()


def phases(events: Sequence[Row[Any]]) -> list[PhaseView]:
    """Every status that the audit was in, in order.

    One that went back to the queue did so because its last attempt ended, so that gives the reason.
    """
    entered: list[tuple[AuditStatus, datetime, dict[str, Any]]] = []
    attempt_ended: dict[str, Any] = {}
    for event in events:
        if event.kind == ATTEMPT_ENDED:
            attempt_ended = event.data
        elif (status := STATUS_OF_EVENT.get(event.kind)) is not None:
            went_back = status is AuditStatus.QUEUED and event.kind != SUBMITTED
            entered.append((status, event.at, attempt_ended if went_back else event.data))
    left = [at for _, at, _ in entered[1:]]
    return [
        PhaseView(
            status=status,
            entered_at=at,
            left_at=left_at,
            cause=reason.get("cause"),
            error=reason.get("error"),
        )
        for (status, at, reason), left_at in zip(entered, [*left, None], strict=True)
    ]


def expected_steps(events: Sequence[Row[Any]]) -> dict[StepKind, int]:
    """How many steps of each kind the submission announced; empty where it announced none."""
    announced: dict[str, int] = next(
        (event.data.get("steps", {}) for event in events if event.kind == SUBMITTED), {}
    )
    return {StepKind(kind): count for kind, count in announced.items()}


def resumed_shares(events: Sequence[Row[Any]]) -> dict[str, tuple[datetime, float]]:
    """By step title: when it was last taken up from a checkpoint, and how much of it that held."""
    return {
        event.data["step"]: (event.at, event.data["share"] or 0.0)
        for event in events
        if event.kind == RESUMED
    }
