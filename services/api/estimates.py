"""How long an audit will still take, judged by its own steps: none is promised that cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean

from shared.states import StepKind, StepStatus
from shared.tables import Step

LEAST_PROGRESS = 0.01  # below it, elapsed over progress says nothing


def seconds_left(steps: Sequence[Step], now: datetime) -> dict[str, float | None]:
    """Per step id: 0 where it has ended, an estimate while it runs or waits, None where there is none.

    A running step is judged by its own progress; a waiting one by the mean duration of the steps of
    its kind that ran, or else by the whole of one that runs.
    """
    typical = {kind: _typical_seconds(steps, kind, now) for kind in StepKind}
    return {step.id: _left(step, typical[step.kind], now) for step in steps}


def total_seconds_left(per_step: dict[str, float | None]) -> float | None:
    """The sum over an audit's steps; None as long as one of them cannot be told."""
    known = [left for left in per_step.values() if left is not None]
    return sum(known) if len(known) == len(per_step) else None


def share_done(steps: Sequence[Step]) -> float:
    """The share of an audit's work that is done, every step counting alike; what was cancelled is not."""
    return fmean(_share(step) for step in steps) if steps else 0.0


def _share(step: Step) -> float:
    settled = step.status.is_terminal and step.status is not StepStatus.CANCELLED
    return 1.0 if settled else step.progress


def _left(step: Step, typical: float | None, now: datetime) -> float | None:
    if step.status.is_terminal:
        return 0.0
    if step.status is StepStatus.PENDING or step.started_at is None:
        return typical
    whole = _projected_seconds(step, now)
    elapsed = (now - step.started_at).total_seconds()
    if whole is None:
        return None if typical is None else max(typical - elapsed, 0.0)
    return max(whole - elapsed, 0.0)


def _typical_seconds(steps: Sequence[Step], kind: StepKind, now: datetime) -> float | None:
    ran = [
        (step.finished_at - step.started_at).total_seconds()
        for step in steps
        if step.kind is kind
        and step.status is StepStatus.SUCCEEDED
        and step.source_step_id in {None, step.id}  # reused ones took no time
        and step.started_at is not None
        and step.finished_at is not None
    ]
    if ran:
        return fmean(ran)
    running = [step for step in steps if step.kind is kind and step.status is StepStatus.RUNNING]
    projected = [whole for step in running if (whole := _projected_seconds(step, now)) is not None]
    return fmean(projected) if projected else None


def _projected_seconds(step: Step, now: datetime) -> float | None:
    """The whole duration of a running step, if it goes on as it has."""
    if step.started_at is None or step.progress < LEAST_PROGRESS:
        return None
    return (now - step.started_at).total_seconds() / step.progress
