"""How a worker takes work. The database is the queue.

A worker claims an audit by taking one of its ready steps, and then takes the next one of the same audit,
for its model is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from shared.audit_moves import lock_audit, move_audit
from shared.database import changed_rows, database_now, reading, transaction
from shared.events import append_event
from shared.leases import Lease
from shared.queue_order import claimable
from shared.states import AuditStatus, StepStatus
from shared.step_moves import IllegalStepMove, held_step, move_step
from shared.tables import Attempt, Audit, Step, Submitter, new_id

CLAIM_TRIES = 50  # as many workers can be faster than this one


def claim(engine: Engine, worker: str, lease_seconds: float, code_version: str) -> Lease | None:
    """Take the first ready step of the audit whose turn it is; None when nothing can be taken.

    code_version: the code that the worker runs. A step planned under other code gets a new key, so that
    its result is never taken for one of that code.
    """
    at_work: list[str] = []  # planned keys of steps that turned out to be identical to running ones
    for _ in range(CLAIM_TRIES):
        with reading(engine) as session:
            free = claimable(col(Step.id), col(Audit.id), col(Step.key)).where(col(Step.key).not_in(at_work))
            first = session.execute(free.limit(1)).one_or_none()
        if first is None:
            return None
        step_id, audit_id, planned_key = first
        lease = Lease(audit_id, attempt_id=new_id(), token=new_id(), seconds=lease_seconds)
        try:
            with transaction(engine) as session:
                _begin_attempt(session, lease, worker)
                _take(session, step_id, lease, code_version)
            return lease
        except IllegalStepMove:
            continue  # another worker was faster
        except IntegrityError:  # it runs elsewhere, under the key that it has for the code of this worker
            at_work.append(planned_key)
    return None


def take_next_step(session: Session, lease: Lease, code_version: str) -> Step | None:
    """The step that the attempt has taken, or the next one of its audit that it takes now.

    To be called with the audit locked. None when the audit has no step that can be taken at this moment.
    """
    if (held := held_step(session, lease)) is not None:
        return held
    audit = lock_audit(session, lease.audit_id)
    if audit.status is not AuditStatus.RUNNING:
        return None
    ready = session.execute(claimable(col(Step.id)).where(col(Step.audit_id) == lease.audit_id)).scalars()
    for step_id in ready.all():
        try:
            with session.begin_nested():
                _take(session, step_id, lease, code_version)
        except IntegrityError:  # an identical step was taken elsewhere at this very moment
            continue
        return held_step(session, lease)
    return None


def _begin_attempt(session: Session, lease: Lease, worker: str) -> None:
    audit = lock_audit(session, lease.audit_id)
    if audit.status not in {AuditStatus.QUEUED, AuditStatus.RUNNING}:
        raise IllegalStepMove(f"audit {audit.id} is {audit.status}")
    number = (
        1
        + session.execute(
            select(func.count()).select_from(Attempt).where(col(Attempt.audit_id) == audit.id)
        ).scalar_one()
    )
    session.execute(
        insert(Attempt).values(
            id=lease.attempt_id,
            audit_id=audit.id,
            number=number,
            worker=worker,
            lease_token=lease.token,
            lease_expires_at=database_now(lease.seconds),
            started_at=database_now(),
        )
    )
    append_event(session, audit.id, "attempt.started", attempt=number, worker=worker)
    if audit.status is AuditStatus.QUEUED:
        move_audit(session, audit.id, AuditStatus.RUNNING)
    note_service(session, audit.id, audit.submitter)


def note_service(session: Session, audit_id: str, submitter: str) -> None:
    """Remember that a worker serves the audit now: whoever waits longer comes first next time."""
    session.execute(
        update(Audit)
        .where(col(Audit.id) == audit_id)
        .values(served_at=database_now())
        .execution_options(synchronize_session=False)
    )
    served = session.execute(
        update(Submitter)
        .where(col(Submitter.name) == submitter)
        .values(served_at=database_now())
        .execution_options(synchronize_session=False)
    )
    if changed_rows(served) == 0:
        with (
            suppress(IntegrityError),
            session.begin_nested(),
        ):  # another worker serves them for the first time
            session.execute(insert(Submitter).values(name=submitter, served_at=database_now()))


def _take(session: Session, step_id: str, lease: Lease, code_version: str) -> None:
    columns = (col(Step.key), col(Step.code_version), col(Step.title), col(Step.needs), col(Step.started_at))
    step = session.execute(select(*columns).where(col(Step.id) == step_id)).one()
    needed = session.execute(
        select(col(Step.key), col(Step.code_version))
        .where(col(Step.id).in_(step.needs))
        .order_by(col(Step.position))
    ).all()
    values: dict[str, Any] = {}
    builds_on_other_code = any(need.code_version != code_version for need in needed)
    keyed_before = step.started_at is not None and step.code_version == code_version
    if step.code_version != code_version or (builds_on_other_code and not keyed_before):
        values = {
            "key": key_under(code_version, step.key, [need.key for need in needed]),
            "checkpoint_progress": None,  # what other code saved half-way is not gone on with
        }
    move_step(
        session,
        step_id,
        StepStatus.RUNNING,
        **values,
        code_version=code_version,
        lease_token=lease.token,
        started_at=database_now(),
        progressed_at=database_now(),
        cause=None,
        error=None,
    )
    append_event(session, lease.audit_id, "step.started", step=step.title)


def key_under(code_version: str, planned_key: str, needed_keys: Sequence[str]) -> str:
    """The key of a step that one code planned and another runs, or that builds on what another code made."""
    return hashlib.sha256(":".join([code_version, planned_key, *needed_keys]).encode()).hexdigest()
