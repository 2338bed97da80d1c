"""Which work comes next.

The order among audits is fair: by priority; then the submitter with the fewest workers, and among those
the one that was served longest ago; then likewise among the submitter's audits.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Any

from sqlalchemy import Row, Select, exists, func, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from shared.database import database_now
from shared.leases import Lease
from shared.states import AuditStatus, StepStatus
from shared.tables import Attempt, Audit, Step, Submitter

Turn = tuple[int, tuple[int, float]]  # workers at work, and when the last was given: less comes first
SERVED_BEFORE, SERVED_NOW = 1, 2
NEVER_SERVED: Turn = (0, (0, 0.0))


def should_make_way(session: Session, lease: Lease, turn_seconds: float) -> bool:
    """Whether another audit waits whose turn it is: one of higher priority, or after `turn_seconds` any
    of the same.
    """
    mine = session.execute(
        select(col(Audit.priority), col(Attempt.started_at), database_now(-turn_seconds).label("before"))
        .join(Attempt, col(Attempt.audit_id) == col(Audit.id))
        .where(col(Attempt.id) == lease.attempt_id)
    ).one()
    turn_is_over = mine.started_at < mine.before
    precedes = col(Audit.priority) >= mine.priority if turn_is_over else col(Audit.priority) > mine.priority
    waiting = claimable(col(Audit.id)).where(col(Audit.id) != lease.audit_id, precedes).limit(1)
    return session.execute(waiting).first() is not None


def queue_position(session: Session, audit_id: str) -> int | None:
    """1 for the queued audit that is claimed next, if workers claim one after the other from now on.

    None for one that no worker could take at this moment: it is not queued, or its step must wait.
    """
    queued = session.execute(
        select(col(Audit.id), col(Audit.submitter), col(Audit.priority))
        .where(
            col(Audit.status) == AuditStatus.QUEUED,
            _is_in_time(),
            exists().where(col(Step.audit_id) == col(Audit.id), *_is_free()),
        )
        .order_by(*_order_of_audits())
    ).all()
    claims = _claims_in_order(queued, _turns_of_submitters(session))
    return next((place for place, claimed in enumerate(claims, start=1) if claimed == audit_id), None)


def _claims_in_order(queued: Sequence[Row[tuple[str, str, int]]], turns: dict[str, Turn]) -> Iterator[str]:
    """The queued audits, each submitter's own in their order, as workers would claim them."""
    waiting: dict[int, dict[str, deque[tuple[int, str]]]] = defaultdict(lambda: defaultdict(deque))
    for place, audit in enumerate(queued):
        waiting[audit.priority][audit.submitter].append((place, audit.id))
    claims = 0
    for priority in sorted(waiting, reverse=True):
        theirs = waiting[priority]
        next_up = [(turns.get(name, NEVER_SERVED), audits[0], name) for name, audits in theirs.items()]
        heapify(next_up)
        while next_up:
            (at_work, _), (_, audit_id), name = next_up[0]
            yield audit_id
            claims += 1
            turns[name] = (at_work + 1, (SERVED_NOW, float(claims)))
            theirs[name].popleft()
            if theirs[name]:
                heapreplace(next_up, (turns[name], theirs[name][0], name))
            else:
                heappop(next_up)


def _turns_of_submitters(session: Session) -> dict[str, Turn]:
    """How many workers each submitter has, and when one was last given to it."""
    at_work: dict[str, int] = {
        row.submitter: row.workers for row in session.execute(_workers_of_submitters())
    }
    served = session.execute(select(col(Submitter.name), col(Submitter.served_at))).all()
    return {
        name: (at_work.get(name, 0), (SERVED_BEFORE, at.timestamp()) if at else NEVER_SERVED[1])
        for name, at in served
    }


def claimable(*columns: Any) -> Select[Any]:
    """Steps that a worker may take, with their audits, in the order in which they are to be taken.

    Whatever it reads is small: the steps that are ready, the attempts that are open, the submitters.
    """
    workers = _workers_of_submitters().subquery()
    return (
        select(*columns)
        .select_from(Step)
        .join(Audit, col(Audit.id) == col(Step.audit_id))
        .outerjoin(workers, workers.c.submitter == col(Audit.submitter))
        .outerjoin(Submitter, col(Submitter.name) == col(Audit.submitter))
        .where(
            *_is_free(),
            col(Audit.status).in_([AuditStatus.QUEUED, AuditStatus.RUNNING]),
            _is_in_time(),
        )
        .order_by(
            col(Audit.priority).desc(),
            func.coalesce(workers.c.workers, 0),
            col(Submitter.served_at).asc().nulls_first(),
            *_order_of_audits(),
            col(Step.position),
        )
    )


def _workers_of_submitters() -> Select[Any]:
    """How many workers are at each submitter's audits; those with none are left out."""
    columns: tuple[Any, ...] = (col(Audit.submitter).label("submitter"), func.count().label("workers"))
    return (
        select(*columns)
        .select_from(Attempt)
        .join(Audit, col(Audit.id) == col(Attempt.audit_id))
        .where(col(Attempt.ended_at).is_(None))
        .group_by(col(Audit.submitter))
    )


def _is_free() -> tuple[Any, ...]:
    """That a step may be taken, as far as it depends on steps."""
    twin = aliased(Step)
    twin_is_running = exists().where(col(twin.key) == col(Step.key), col(twin.status) == StepStatus.RUNNING)
    return (col(Step.ready_at) <= database_now(), ~twin_is_running)


def _is_in_time() -> Any:
    return or_(col(Audit.expires_at).is_(None), col(Audit.expires_at) > database_now())


def _order_of_audits() -> tuple[Any, ...]:
    at_work = (
        select(func.count())
        .select_from(Attempt)
        .where(col(Attempt.ended_at).is_(None), col(Attempt.audit_id) == col(Audit.id))
        .scalar_subquery()
    )
    return (at_work, col(Audit.served_at).asc().nulls_first(), col(Audit.created_at), col(Audit.id))
