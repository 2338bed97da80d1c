"""The rules told a second time, in plain Python, for the product's doings to be compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.shared.state_machine.clock import START
from tests.shared.state_machine.records import (
    REUSABLE,
    STEP_ENDED,
    STORED,
    ModelAttempt,
    ModelAudit,
    ModelStep,
)
from tests.shared.state_machine.shapes import Wish

MAX_DEATHS = 3
LEASE_SECONDS = 30.0
RETRY_WAIT_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 600.0
TURN_SECONDS = 300.0
CANCEL_DEADLINE_SECONDS = 25.0


class Refused(Exception):
    """The product must raise LeaseLost here, and change nothing."""


@dataclass
class Model:
    """Every audit there is, and the time."""

    now: datetime = START
    audits: dict[str, ModelAudit] = field(default_factory=dict)
    served: dict[str, datetime] = field(default_factory=dict)  # submitter → when last
    damaged: set[str] = field(default_factory=set)  # artifacts

    # What waits, and whose turn it is.

    def waiting(self) -> list[ModelStep]:
        """The steps that are due, in the order of their turns, whatever code planned them."""
        due = [
            (audit, step)
            for audit in self.audits.values()
            if audit.status in {"queued", "running"}
            and (audit.expires_at is None or audit.expires_at > self.now)
            for step in audit.steps
            if step.ready_at is not None and step.ready_at <= self.now and not self._runs(step.key)
        ]
        return [step for _, step in sorted(due, key=lambda pair: self._turn(*pair))]

    def takeable(self) -> list[ModelStep]:
        """What a worker can take: of identical steps only one runs at a time."""
        return [step for step in self.waiting() if not self._runs(step.current_key)]

    def audit_of(self, step: ModelStep) -> ModelAudit:
        return next(audit for audit in self.audits.values() if step in audit.steps)

    def _runs(self, key: str) -> bool:
        return any(
            step.status == "running" and step.key == key
            for audit in self.audits.values()
            for step in audit.steps
        )

    def _turn(self, audit: ModelAudit, step: ModelStep) -> tuple[object, ...]:
        theirs = [other for other in self.audits.values() if other.submitter == audit.submitter]
        return (
            -audit.priority,
            sum(len(other.at_work) for other in theirs),
            self.served.get(audit.submitter, START),
            len(audit.at_work),
            audit.served_at or START,
            audit.created_at,
            step.position,
        )

    def should_make_way(self, attempt: ModelAttempt) -> bool:
        """Whether another audit's turn has come."""
        over = attempt.started_at < self.now - timedelta(seconds=TURN_SECONDS)
        others = (self.audit_of(step) for step in self.waiting())
        return any(
            other is not attempt.audit and other.priority + over > attempt.audit.priority for other in others
        )

    # What a submitter does.

    def submit(self, audit_id: str, steps: list[ModelStep], wish: Wish) -> None:
        """An audit is accepted, of which some steps are done."""
        expires_at = None if wish.queue_seconds is None else self.now + timedelta(seconds=wish.queue_seconds)
        audit = ModelAudit(
            audit_id,
            wish.submitter,
            wish.priority,
            self.now,
            expires_at,
            wish.run_seconds,
            wish.from_scratch,
            steps,
        )
        for step in steps:
            step.deaths = step.damages = MAX_DEATHS - 1 if wish.worn else 0
            if step.kind in wish.done:
                step.status, step.finished_at, step.source, step.progress = (
                    "succeeded",
                    self.now,
                    step.id,
                    1.0,
                )
                step.artifact = step.key if step.kind in STORED else None
        self._settle(audit)
        audit.events["audit.submitted"] += 1
        self.audits[audit_id] = audit

    def cancel(self, audit: ModelAudit) -> str:
        """At once where nobody is at work."""
        if audit.status == "queued":
            audit.move("cancelled")
            self._cancel_steps(audit)
        elif audit.status == "running":
            audit.move("cancelling")
            audit.cancel_requested_at = self.now
        return audit.status

    # What a worker does.

    def claim(self, attempt_id: str) -> ModelAttempt:
        """Begin an attempt with the first step that can be taken."""
        step = self.takeable()[0]
        audit = self.audit_of(step)
        attempt = ModelAttempt(
            attempt_id, len(audit.attempts) + 1, audit, self.now, self.now + timedelta(seconds=LEASE_SECONDS)
        )
        audit.attempts.append(attempt)
        audit.events["attempt.started"] += 1
        if audit.status == "queued":
            audit.move("running")
            if not audit.started:
                audit.started = True
                audit.expires_at = (
                    self.now + timedelta(seconds=audit.run_seconds) if audit.run_seconds else None
                )
        self.served[audit.submitter] = audit.served_at = self.now
        self._take(attempt, step)
        return attempt

    def next_step(self, attempt: ModelAttempt) -> None:
        """Take what is next in the same audit, or leave it."""
        self.hold(attempt)
        if attempt.step is not None:
            return
        may_stay = not attempt.leaving and not self.should_make_way(attempt)
        if may_stay and attempt.audit.status == "running":
            for step in self.takeable():
                if step in attempt.audit.steps:
                    self._take(attempt, step)
                    return
        self._leave(attempt)

    def hold(self, attempt: ModelAttempt) -> None:
        """Every write renews the lease."""
        if not attempt.is_open:
            raise Refused
        attempt.lease_expires_at = self.now + timedelta(seconds=LEASE_SECONDS)

    def identical(self, attempt: ModelAttempt) -> ModelStep | None:
        """The step whose result stands for the one at hand."""
        step = attempt.step
        if step is None or step.kind not in REUSABLE or attempt.audit.from_scratch:
            return None
        candidates = [
            other
            for audit in self.audits.values()
            for other in audit.steps
            if other.key == step.key and other.status == "succeeded"
        ]
        candidates.sort(key=lambda other: other.finished_at or START)
        return next((other for other in candidates[:5] if other.artifact not in self.damaged), None)

    def reuse(self, attempt: ModelAttempt, earlier: ModelStep) -> None:
        step = self._end_step(attempt, "succeeded", "step.reused")
        step.source, step.artifact, step.progress = earlier.source, earlier.artifact, 1.0

    def succeed(self, attempt: ModelAttempt, planned: list[ModelStep]) -> None:
        """A result is published; a plan lays out the other steps."""
        step = self._end_step(attempt, "succeeded", "step.succeeded", planned)
        step.source, step.progress, step.checkpoint = step.id, 1.0, None
        if step.kind in STORED:
            step.artifact = step.key
            self.damaged.discard(step.key)

    def fail(self, attempt: ModelAttempt) -> None:
        self._end_step(attempt, "failed", "step.failed")

    def try_later(self, attempt: ModelAttempt) -> None:
        """What the step at hand needs is away; that is no fault of its own."""
        self.hold(attempt)
        step = attempt.at_hand
        wait = min(RETRY_WAIT_SECONDS * 4**step.delays, LONGEST_WAIT_SECONDS)
        step.delays += 1
        attempt.audit.events["step.delayed"] += 1
        self._put_back(attempt, wait)

    def break_down(self, attempt: ModelAttempt) -> None:
        """Something nobody foresaw: another process must try, and this one take nothing more."""
        self.hold(attempt)
        self._die(attempt)
        attempt.leaving = True

    def find_damage(self, attempt: ModelAttempt) -> None:
        """What the step at hand reads must be computed again, unless that was tried enough."""
        damaged = attempt.at_hand.reads
        assert damaged is not None
        if damaged.status == "succeeded" and damaged.damages + 1 >= MAX_DEATHS:
            self.fail(attempt)
            return
        self.hold(attempt)
        if damaged.status == "succeeded":
            damaged.move("pending")
            damaged.ready_at, damaged.finished_at = self.now, None
            damaged.damages += 1
            damaged.artifact = damaged.source = None
            damaged.progress = 0.0
            attempt.audit.events["step.damaged"] += 1
        self._put_back(attempt, 0.0)

    def hand_over(self, attempt: ModelAttempt) -> None:
        self.hold(attempt)
        if attempt.step is not None:
            attempt.audit.events["step.handed_over"] += 1
            self._put_back(attempt, 0.0)
        self._leave(attempt)

    def report(self, attempt: ModelAttempt, share: float, *, saved: bool) -> None:
        """Progress is shown; what was saved outlives the attempt."""
        self.hold(attempt)
        attempt.at_hand.progress = share
        if saved:
            attempt.at_hand.checkpoint = share

    # What others do to it.

    def lose(self, attempt: ModelAttempt) -> None:
        """The worker or its child is gone."""
        if attempt.step is not None:
            self._die(attempt)
        self._leave(attempt)

    def reap(self) -> list[str]:
        late = [
            attempt
            for audit in self.audits.values()
            for attempt in audit.at_work
            if attempt.lease_expires_at < self.now
        ]
        for attempt in late:
            self.lose(attempt)
        return [attempt.audit.id for attempt in late]

    def expire(self) -> list[str]:
        overdue = [
            audit
            for audit in self.audits.values()
            if audit.status in {"queued", "running"} and audit.expires_at and audit.expires_at < self.now
        ]
        return self._end_audits(overdue, "expired")

    def finish_cancels(self) -> list[str]:
        before = self.now - timedelta(seconds=CANCEL_DEADLINE_SECONDS)
        overdue = [
            audit
            for audit in self.audits.values()
            if audit.status == "cancelling"
            and audit.cancel_requested_at
            and audit.cancel_requested_at < before
        ]
        return self._end_audits(overdue, "cancelled")

    # What follows from it.

    def _take(self, attempt: ModelAttempt, step: ModelStep) -> None:
        assert all(self._is_met(step, needed) for needed in step.needs), f"{step.kind} was taken too early"
        step.move("running")
        step.key = step.current_key
        attempt.step = step
        attempt.audit.events["step.started"] += 1

    def _is_met(self, step: ModelStep, needed: ModelStep) -> bool:
        return needed.status in STEP_ENDED if step.kind == "analyse" else needed.status == "succeeded"

    def _end_step(
        self, attempt: ModelAttempt, status: str, event: str, planned: list[ModelStep] | None = None
    ) -> ModelStep:
        step = attempt.at_hand
        if attempt.audit.status != "running":
            raise Refused
        self.hold(attempt)
        step.move(status)
        step.finished_at = self.now
        attempt.step = None
        attempt.audit.events[event] += 1
        attempt.audit.steps += planned or []
        self._settle(attempt.audit)
        return step

    def _settle(self, audit: ModelAudit) -> None:
        for step in audit.steps:
            if step.status != "pending":
                continue
            broken = any(needed.status in STEP_ENDED - {"succeeded"} for needed in step.needs)
            if broken and step.kind != "analyse":
                step.move("skipped")
                audit.events["step.skipped"] += 1
            elif not all(self._is_met(step, needed) for needed in step.needs):
                step.ready_at = None
            elif step.ready_at is None:
                step.ready_at = self.now

    def _die(self, attempt: ModelAttempt) -> None:
        step = attempt.at_hand
        step.deaths += 1
        attempt.audit.events["step.died"] += 1
        if step.deaths < MAX_DEATHS:
            self._put_back(attempt, 0.0)
            return
        step.move("failed")
        attempt.step = None
        attempt.audit.events["step.failed"] += 1
        self._settle(attempt.audit)

    def _put_back(self, attempt: ModelAttempt, wait_seconds: float) -> None:
        step = attempt.at_hand
        step.move("pending")
        step.ready_at = self.now + timedelta(seconds=wait_seconds)
        step.progress = step.checkpoint or 0.0
        attempt.step = None
        self._settle(attempt.audit)

    def _leave(self, attempt: ModelAttempt) -> None:
        """The last one out ends the audit, or gives it back to the queue."""
        audit = attempt.audit
        self._end_attempt(attempt)
        if audit.at_work:
            return
        if audit.status == "cancelling":
            self._cancel_steps(audit)
            audit.move("cancelled")
        elif any(step.status not in STEP_ENDED for step in audit.steps):
            audit.move("queued")
        else:
            succeeded = [step for step in audit.steps if step.status == "succeeded"]
            measured = any(step.kind == "tune" and step.reads for step in succeeded)
            reported = any(step.kind == "analyse" for step in succeeded)
            audit.move("succeeded" if measured and reported else "failed")

    def _end_attempt(self, attempt: ModelAttempt) -> None:
        attempt.is_open = False
        attempt.step = None
        attempt.audit.events["attempt.ended"] += 1

    def _end_audits(self, audits: list[ModelAudit], status: str) -> list[str]:
        for audit in audits:
            for attempt in audit.at_work:
                self._end_attempt(attempt)
            self._cancel_steps(audit)
            audit.move(status)
        return [audit.id for audit in audits]

    def _cancel_steps(self, audit: ModelAudit) -> None:
        for step in audit.steps:
            if step.status not in STEP_ENDED:
                step.move("cancelled")
