"""How long an audit will still take: judged by its own steps, and by what audits like it took.

Nothing is promised that cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean

from shared.states import StepKind, StepStatus
from shared.tables import Step

LEAST_PROGRESS = 0.01  # below it, elapsed over progress says nothing


@dataclass(frozen=True)
class Estimate:
    """One audit at one moment.

    now: by the database's clock, which wrote the times of the steps.
    history: mean seconds per kind of step in late audits of the same model.
    expected: by kind, how many steps will follow the plan; what counts until it has laid them out.
    resumed: by step title, when it was last taken up from a checkpoint and the share that this held.
    """

    steps: Sequence[Step]
    now: datetime
    history: Mapping[StepKind, float] = field(default_factory=dict)
    expected: Mapping[StepKind, int] = field(default_factory=dict)
    resumed: Mapping[str, tuple[datetime, float]] = field(default_factory=dict)

    def share_done(self) -> float:
        """The share of the work that is done, every step counting alike; what was cancelled is not."""
        count = len(self.steps) + sum(self._to_come().values())
        return sum(map(_share, self.steps)) / count if count else 0.0

    def seconds_left(self, step: Step) -> float | None:
        """0 for a step that has ended, an estimate while it runs or waits, None where there is none.

        A running step is judged by its own progress; a waiting one by the mean duration of the steps of
        its kind that ran, or else by the whole of one that runs, or else by those of earlier audits.
        """
        if step.status.is_terminal:
            return 0.0
        typical = self._typical_seconds(step.kind)
        if step.status is StepStatus.PENDING or step.started_at is None:
            return None if typical is None else typical * (1 - step.progress)
        elapsed = (self.now - step.started_at).total_seconds()
        whole = self._projected_seconds(step)
        if whole is not None:
            return max(whole * (1 - step.progress), 0.0)
        return None if typical is None else max(typical * (1 - self._held(step)) - elapsed, 0.0)

    def total_seconds_left(self, workers: int) -> float | None:
        """The work left, shared by so many workers; None as long as a part of it cannot be told."""
        parts = [self.seconds_left(step) for step in self.steps]
        for kind, count in self._to_come().items():
            parts += [self._typical_seconds(kind)] * count
        known = [left for left in parts if left is not None]
        if not known or len(known) < len(parts):
            return None
        return max(sum(known) / max(workers, 1), *known)  # a step is not divided

    def _to_come(self) -> Mapping[StepKind, int]:
        planned = len(self.steps) > 1 or any(step.status.is_terminal for step in self.steps)
        return {} if planned else self.expected

    def _typical_seconds(self, kind: StepKind) -> float | None:
        computed = [
            (step.finished_at - step.started_at).total_seconds() / (1 - self._held(step))
            for step in self.steps
            if step.kind is kind
            and step.status is StepStatus.SUCCEEDED
            and step.source_step_id in {None, step.id}  # reused ones took no time
            and step.started_at is not None
            and step.finished_at is not None
            and self._held(step) < 1
        ]
        if computed:
            return fmean(computed)
        running = [step for step in self.steps if step.kind is kind and step.status is StepStatus.RUNNING]
        projected = [whole for step in running if (whole := self._projected_seconds(step)) is not None]
        return fmean(projected) if projected else self.history.get(kind)

    def _projected_seconds(self, step: Step) -> float | None:
        """The whole duration of a running step, had it begun at nothing and gone on as it has."""
        made = step.progress - self._held(step)
        if step.started_at is None or made < LEAST_PROGRESS:
            return None
        return (self.now - step.started_at).total_seconds() / made

    def _held(self, step: Step) -> float:
        """The share that a checkpoint held when the step was last taken up."""
        at, share = self.resumed.get(step.title, (None, 0.0))
        if at is None or step.started_at is None or at < step.started_at:
            return 0.0  # it has begun anew since
        return share


def seconds_until_taken(position: int | None, workers: int, spell_seconds: float | None) -> float | None:
    """How long an audit waits: each of the workers takes the next one after a typical spell."""
    if position is None or workers == 0 or spell_seconds is None:
        return None
    return position * spell_seconds / workers


def _share(step: Step) -> float:
    settled = step.status.is_terminal and step.status is not StepStatus.CANCELLED
    return 1.0 if settled else step.progress
