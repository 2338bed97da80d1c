"""How a step moves from state to state, and which steps that lets workers take.

Whoever moves a step of an audit has locked the audit's row (`lock_audit`) or takes what nobody else can
take: two workers that finish two steps at once could otherwise each miss that the other has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, update
from sqlmodel import Session, col

from shared.database import changed_rows, database_now
from shared.events import append_event
from shared.leases import Lease
from shared.outbox import WAKE_UPS_AT_ONCE, request_wake_up
from shared.states import Cause, StepKind, StepStatus, leads_to
from shared.tables import Step

WAIT_GROWTH = 4
LONGEST_WAIT_SECONDS = 600.0


class IllegalStepMove(Exception):
    """A step was asked to move where its state does not lead, or by an attempt that does not hold it."""


def move_step(
    session: Session, step_id: str, wanted: StepStatus, *, held_by: str | None = None, **values: Any
) -> None:
    """Move a step to `wanted`; `held_by` is the lease token that must have taken it.

    Raises:
        IllegalStepMove: its present state does not lead there, or another attempt holds it.
    """
    query = update(Step).where(col(Step.id) == step_id, col(Step.status).in_(leads_to(wanted)))
    if held_by is not None:
        query = query.where(col(Step.lease_token) == held_by)
    if wanted is StepStatus.RUNNING:
        query = query.where(col(Step.ready_at) <= database_now())
    if wanted is not StepStatus.PENDING:
        values |= {"ready_at": None}
    if wanted.is_terminal:
        values |= {"finished_at": database_now()}
    moved = session.execute(
        query.values(status=wanted, **values).execution_options(synchronize_session=False)
    )
    if changed_rows(moved) != 1:
        raise IllegalStepMove(f"step {step_id} cannot become {wanted}")


def held_step(session: Session, lease: Lease) -> Step | None:
    """The step that the attempt has taken and not ended."""
    return session.execute(
        select(Step)
        .where(
            col(Step.audit_id) == lease.audit_id,
            col(Step.lease_token) == lease.token,
            col(Step.status) == StepStatus.RUNNING,
        )
        .execution_options(populate_existing=True)
    ).scalar_one_or_none()


def settle(session: Session, audit_id: str) -> None:
    """Let workers take what waits no longer, and skip what can never run."""
    columns = (Step.id, Step.kind, Step.title, Step.status, Step.needs, Step.ready_at)
    steps = session.execute(
        select(*map(col, columns)).where(col(Step.audit_id) == audit_id).order_by(col(Step.position))
    ).all()
    status_of: dict[str, StepStatus] = {step.id: step.status for step in steps}
    ready = 0
    for step in steps:  # in order of position, so that what needs a skipped step is skipped too
        if step.status is not StepStatus.PENDING:
            continue
        if _can_never_run(step, status_of):
            move_step(session, step.id, StepStatus.SKIPPED, error="a step it needs did not succeed")
            append_event(session, audit_id, "step.skipped", step=step.title)
            status_of[step.id] = StepStatus.SKIPPED
        elif not _needs_are_met(step, status_of):
            if step.ready_at is not None:  # what it needs has been found damaged
                _set_ready(session, step.id, None)
        else:
            ready += 1
            if step.ready_at is None:
                _set_ready(session, step.id, database_now())
    if ready > 1:  # one is taken by whoever made it ready
        request_wake_up(session, audit_id)


def step_died(session: Session, step: Step, *, max_deaths: int, cause: Cause, error: str) -> None:
    """Count a death of a running step: it waits to be taken again, or at `max_deaths` fails for good."""
    deaths = step.deaths + 1
    append_event(
        session, step.audit_id, "step.died", step=step.title, deaths=deaths, cause=cause, error=error
    )
    if deaths < max_deaths:
        put_back(session, step, deaths=deaths)
        return
    summary = f"died {deaths} times; the last time: {error}" if deaths > 1 else error
    move_step(session, step.id, StepStatus.FAILED, deaths=deaths, cause=cause, error=summary)
    append_event(session, step.audit_id, "step.failed", step=step.title, cause=cause, error=summary)
    settle(session, step.audit_id)


def put_off(session: Session, step: Step, error: str, wait_seconds: float) -> None:
    """Have a running step tried again later: what it needs is away, which is no fault of its own.

    wait_seconds: how long it waits the first time; each further time 4 times as long, up to
    `LONGEST_WAIT_SECONDS`. The audit's time to run bounds how often.
    """
    wait = min(wait_seconds * WAIT_GROWTH**step.delays, LONGEST_WAIT_SECONDS)
    append_event(session, step.audit_id, "step.delayed", step=step.title, error=error, seconds=wait)
    put_back(session, step, wait_seconds=wait, delays=step.delays + 1)


def put_back(session: Session, step: Step, *, wait_seconds: float = 0.0, **values: Any) -> None:
    """Let a running step be taken again, `wait_seconds` from now at the earliest.

    If what it needs was meanwhile found damaged, it waits for that, or is skipped where that has failed.
    """
    move_step(
        session,
        step.id,
        StepStatus.PENDING,
        ready_at=database_now(wait_seconds),
        progress=step.checkpoint_progress or 0.0,
        progress_note=None,
        **values,
    )
    settle(session, step.audit_id)


def have_computed_again(session: Session, damaged_id: str, held: Step, error: str) -> None:
    """Put `held` back until the step whose artifact it found damaged has been computed again.

    What else needs it waits once more as well.
    """
    damaged = session.get_one(Step, damaged_id, populate_existing=True)
    if damaged.status is StepStatus.SUCCEEDED:  # else somebody found the damage before
        append_event(session, damaged.audit_id, "step.damaged", step=damaged.title, error=error)
        move_step(
            session,
            damaged.id,
            StepStatus.PENDING,
            ready_at=database_now(),
            damages=damaged.damages + 1,
            progress=0.0,
            finished_at=None,
            source_step_id=None,
            artifact=None,
            artifact_sha256=None,
            outcome=None,
        )
    put_back(session, held)


def wake_twins(session: Session, step: Step) -> None:
    """Tell workers of other audits that waited for a step identical to this one, which has ended."""
    twins = session.execute(
        select(col(Step.audit_id))
        .where(col(Step.key) == step.key, col(Step.ready_at).is_not(None))
        .distinct()
        .order_by(col(Step.audit_id))
        .limit(WAKE_UPS_AT_ONCE)
    ).scalars()
    for audit_id in twins.all():
        request_wake_up(session, audit_id)


def _can_never_run(step: Row[tuple[Any, ...]], status_of: dict[str, StepStatus]) -> bool:
    if step.kind is StepKind.ANALYSE:  # reports on whatever there is
        return False
    needs: Sequence[str] = step.needs
    return any(
        status_of[needed].is_terminal and status_of[needed] is not StepStatus.SUCCEEDED for needed in needs
    )


def _needs_are_met(step: Row[tuple[Any, ...]], status_of: dict[str, StepStatus]) -> bool:
    if step.kind is StepKind.ANALYSE:
        return all(status_of[needed].is_terminal for needed in step.needs)
    return all(status_of[needed] is StepStatus.SUCCEEDED for needed in step.needs)


def _set_ready(session: Session, step_id: str, ready_at: database_now | None) -> None:
    session.execute(
        update(Step)
        .where(col(Step.id) == step_id, col(Step.status) == StepStatus.PENDING)
        .values(ready_at=ready_at)
        .execution_options(synchronize_session=False)
    )
