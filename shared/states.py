"""The words for where an audit, a step and an attempt stand, and the moves between them."""

from __future__ import annotations

from enum import StrEnum


class AuditStatus(StrEnum):
    """Where the job stands; says nothing about whether edits held (that is the `Verdict`)."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return not AUDIT_TRANSITIONS[self]


AUDIT_TRANSITIONS: dict[AuditStatus, frozenset[AuditStatus]] = {
    AuditStatus.QUEUED: frozenset({AuditStatus.RUNNING, AuditStatus.CANCELLED, AuditStatus.EXPIRED}),
    AuditStatus.RUNNING: frozenset(
        {
            AuditStatus.QUEUED,  # its last worker was lost; the work goes back to the queue
            AuditStatus.CANCELLING,
            AuditStatus.SUCCEEDED,
            AuditStatus.FAILED,
            AuditStatus.EXPIRED,
        }
    ),
    AuditStatus.CANCELLING: frozenset({AuditStatus.CANCELLED}),
    AuditStatus.SUCCEEDED: frozenset(),
    AuditStatus.FAILED: frozenset(),
    AuditStatus.CANCELLED: frozenset(),
    AuditStatus.EXPIRED: frozenset(),
}


class IllegalTransition(Exception):
    """An audit was asked to move where its state does not lead."""

    def __init__(self, current: AuditStatus, wanted: AuditStatus) -> None:
        super().__init__(f"an audit that is {current} cannot become {wanted}")
        self.current = current
        self.wanted = wanted


def check_transition(current: AuditStatus, wanted: AuditStatus) -> None:
    """Raise `IllegalTransition` unless `current` leads to `wanted`."""
    if wanted not in AUDIT_TRANSITIONS[current]:
        raise IllegalTransition(current, wanted)


class StepKind(StrEnum):
    """The stages of an audit, in the order they run."""

    PLAN = "plan"
    BASE = "base"
    PREPARE = "prepare"
    EDIT = "edit"
    TUNE = "tune"
    STRESS = "stress"
    PROBE = "probe"  # of a model that was tuned elsewhere
    ANALYSE = "analyse"


class StepStatus(StrEnum):
    """Where one step stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # a step it needs failed
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the step will not run again."""
        return self not in {StepStatus.PENDING, StepStatus.RUNNING}


STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    StepStatus.PENDING: frozenset({StepStatus.RUNNING, StepStatus.SKIPPED, StepStatus.CANCELLED}),
    StepStatus.RUNNING: frozenset(
        {
            StepStatus.PENDING,  # its worker was lost or handed it over
            StepStatus.SUCCEEDED,
            StepStatus.FAILED,
            StepStatus.CANCELLED,
        }
    ),
    StepStatus.SUCCEEDED: frozenset({StepStatus.PENDING}),  # its artifact was found damaged
    StepStatus.FAILED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
    StepStatus.CANCELLED: frozenset(),
}


def leads_to(wanted: StepStatus) -> list[StepStatus]:
    """The states from which a step can become `wanted`."""
    return [current for current, following in STEP_TRANSITIONS.items() if wanted in following]


class Cause(StrEnum):
    """Whose fault a failure is; decides whether trying again can help."""

    USER = "user"
    MODEL = "model"
    INFRASTRUCTURE = "infrastructure"
    TIMEOUT = "timeout"


class Verdict(StrEnum):
    """What the gate says of the edits."""

    PASS = "pass"  # noqa: S105 (a verdict, not a password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
