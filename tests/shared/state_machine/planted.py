"""Wrong rules, each put in the place of a right one to see that the search finds it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, update
from sqlmodel import Session, col

from services.worker.steps import order
from shared import audit_moves, claims, leases, recovery, step_moves
from shared.audit_moves import lock_audit, move_audit
from shared.database import database_now
from shared.events import append_event
from shared.leases import Lease
from shared.queue_order import claimable
from shared.states import AuditStatus, StepStatus
from shared.step_moves import move_step, step_died
from shared.tables import Attempt, Audit, Step
from tests.shared.state_machine import doings

Replacement = tuple[Any, str, Any]  # module, name, what takes its place


def hold_whoever_asks(session: Session, lease: Lease) -> None:
    """Renews a lease without looking whether its attempt has ended."""
    session.execute(
        update(Attempt)
        .where(col(Attempt.id) == lease.attempt_id)
        .values(lease_expires_at=database_now(lease.seconds))
    )


def do_nothing(*_: Any, **__: Any) -> None:
    """Forgets what is to be done."""


def requeue_nothing(session: Session, audit_id: str) -> None:
    """Ends what is being cancelled, and leaves all else as it is."""
    if lock_audit(session, audit_id).status is AuditStatus.CANCELLING:
        audit_moves.cancel_open_steps(session, audit_id)
        move_audit(session, audit_id, AuditStatus.CANCELLED)


def every_status(_wanted: StepStatus) -> list[StepStatus]:
    """Has every state lead to every other."""
    return list(StepStatus)


def put_back_at_once(session: Session, step: Step, *, wait_seconds: float = 0.0, **values: Any) -> None:
    """Lets a step be taken again, whatever has become of what it needs."""
    progress = step.checkpoint_progress or 0.0
    ready_at = database_now(wait_seconds)
    move_step(session, step.id, StepStatus.PENDING, ready_at=ready_at, progress=progress, **values)


def cancel_waiting_steps(session: Session, audit_id: str) -> None:
    """Leaves running steps as they are."""
    session.execute(
        update(Step)
        .where(col(Step.audit_id) == audit_id, col(Step.status) == StepStatus.PENDING)
        .values(status=StepStatus.CANCELLED, ready_at=None, finished_at=database_now())
        .execution_options(synchronize_session=False)
    )


def never_die_for_good(session: Session, step: Step, *, max_deaths: int, **why: Any) -> None:
    """Tries once more than it should."""
    step_died(session, step, max_deaths=max_deaths + 1, **why)


def newest_first(*columns: Any) -> Select[Any]:
    """Turns the queue round."""
    return claimable(*columns).order_by(None).order_by(col(Audit.created_at).desc(), col(Step.position))


def say_twice(session: Session, audit_id: str, kind: str, **data: Any) -> int:
    """Tells everything two times."""
    append_event(session, audit_id, kind, **data)
    return append_event(session, audit_id, kind, **data)


PLANTED: dict[str, list[Replacement]] = {
    "a zombie can write": [(leases, "hold", hold_whoever_asks)],
    "an attempt does not end": [(recovery, "close_attempt", do_nothing)],
    "an audit does not go back to the queue": [(recovery, "go_on_without", requeue_nothing)],
    "a step goes from anywhere to anywhere": [(step_moves, "leads_to", every_status)],
    "steps that waited do not go on": [(module, "settle", do_nothing) for module in (order, step_moves)],
    "a step is put back before what it needs": [(step_moves, "put_back", put_back_at_once)],
    "a step dies once too often": [(module, "step_died", never_die_for_good) for module in (order, recovery)],
    "running steps outlive their audit": [
        (module, "cancel_open_steps", cancel_waiting_steps) for module in (audit_moves, recovery)
    ],
    "the newest is served first": [(claims, "claimable", newest_first)],
    "history repeats itself": [(step_moves, "append_event", say_twice)],
    "lost wake-ups are not sent again": [(doings, "repeat_unheard_wake_ups", do_nothing)],
}
