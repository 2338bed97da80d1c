"""Takes the ready steps of an audit one after another, until none is left for this worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlmodel import Session, col

from services.worker.orders import AskedToLeave
from services.worker.steps import analyse, base, edit, plan, prepare, stress, tune, tuned_elsewhere
from services.worker.steps.checkpoints import forget, stored_checkpoint
from services.worker.steps.content_keys import code_version
from services.worker.steps.context import AuditContext, StepOutcome, replace_scores
from services.worker.steps.failures import InputDamaged, StepFailed, explain, is_foreseen, is_passing
from services.worker.tuning.errors import HandedOver
from shared.artifacts import Artifact, ArtifactCorrupt
from shared.audit_moves import lock_audit
from shared.claims import take_next_step
from shared.events import append_event
from shared.leases import LeaseLost
from shared.queue_order import should_make_way
from shared.recovery import hand_over, leave
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from shared.step_moves import (
    have_computed_again,
    held_step,
    move_step,
    put_off,
    settle,
    step_died,
    wake_twins,
)
from shared.tables import Step

log = logging.getLogger(__name__)

RUN: dict[StepKind, Callable[[AuditContext, Step], StepOutcome]] = {
    StepKind.PLAN: plan.run,
    StepKind.BASE: base.run,
    StepKind.PREPARE: prepare.run,
    StepKind.EDIT: edit.run,
    StepKind.TUNE: tune.run,
    StepKind.STRESS: stress.run,
    StepKind.PROBE: tuned_elsewhere.run,
    StepKind.ANALYSE: analyse.run,
}
REUSABLE = frozenset(RUN) - {StepKind.PLAN, StepKind.ANALYSE}
CANDIDATES = 5  # identical steps whose artifacts are looked at before the step is computed again


class CodeChanged(Exception):
    """The supervisor and its child do not run the same code."""


def work_on_audit(context: AuditContext) -> None:
    """Run the step that was claimed, and then every next one that can be taken; the attempt then ends.

    Raises:
        LeaseLost: somebody else has ended the attempt.
        CodeChanged: the step was taken in the name of other code than this process runs.
    """
    while (step := next_step(context)) is not None:
        if step.code_version != code_version():
            raise CodeChanged("the worker's code was replaced while it ran; it must be started again")
        try:
            run_step(context, step)
        except (AskedToLeave, HandedOver):
            context.write(lambda session: hand_over(session, context.lease, "its worker was stopped"))
            return


def next_step(context: AuditContext) -> Step | None:
    """The step to run now; None when the attempt has ended, for there is none or others must have a turn."""

    def take(session: Session) -> Step | None:
        lock_audit(session, context.lease.audit_id)
        step = held_step(session, context.lease)
        if step is None and not _must_leave(context, session):
            step = take_next_step(session, context.lease, code_version())
        if step is None:
            leave(session, context.lease)
        return step

    return context.write(take)


def _must_leave(context: AuditContext, session: Session) -> bool:
    """Whether to take no other step; after a failure that nobody foresaw the process is not to be trusted."""
    if context.orders.leaving or context.failed_unforeseen:
        return True
    return should_make_way(session, context.lease, context.settings.turn_seconds)


def run_step(context: AuditContext, step: Step) -> None:
    """Run one step, or take over the result of an identical one; record how it ended.

    Raises:
        LeaseLost: see `work_on_audit`.
        AskedToLeave, HandedOver: the worker was stopped; what could be kept has been.
    """
    try:
        if step.kind in REUSABLE and not context.audit.from_scratch and reuse_identical(context, step):
            return
        outcome = RUN[step.kind](context, step)
    except (LeaseLost, AskedToLeave, HandedOver):
        raise
    except InputDamaged as damage:
        compute_input_again(context, step, damage)
    except Exception as error:  # whatever a step raises is that step's failure, not the audit's
        log.exception("step %s failed", step.title)
        if is_passing(error):
            try_later(context, explain(error))
        elif is_foreseen(error):
            fail(context, step, explain(error))
        else:
            context.failed_unforeseen = True
            die(context, explain(error))
    else:
        succeed(context, step, outcome)


def succeed(context: AuditContext, step: Step, outcome: StepOutcome) -> None:
    """Publish a step's result: scores, record, status and what follows from it, in one transaction."""

    def scores_and_report(session: Session) -> None:
        replace_scores(session, step.id, outcome.arms)
        if outcome.publish is not None:
            outcome.publish(session)

    checkpoint = stored_checkpoint(context, step)
    _end_step(
        context,
        step,
        StepStatus.SUCCEEDED,
        "step.succeeded",
        also=scores_and_report,
        progress=1.0,
        source_step_id=step.id,
        artifact=outcome.artifact.name if outcome.artifact else None,
        artifact_sha256=outcome.artifact.sha256 if outcome.artifact else None,
        outcome=outcome.record,
        checkpoint=None,
        checkpoint_sha256=None,
        checkpoint_progress=None,
    )
    if checkpoint is not None:
        forget(context, checkpoint)


def fail(context: AuditContext, step: Step, failure: StepFailed) -> None:
    """Record why a step cannot give its result."""
    why: dict[str, Any] = {"cause": failure.cause, "error": failure.reason}
    _end_step(context, step, StepStatus.FAILED, "step.failed", told=why, **why)


def try_later(context: AuditContext, failure: StepFailed) -> None:
    """Have the step tried again when what it needs may be back."""
    wait_seconds = context.settings.retry_wait_seconds
    _with_held_step(context, lambda session, step: put_off(session, step, failure.reason, wait_seconds))


def die(context: AuditContext, failure: StepFailed) -> None:
    """Count a death: what nobody foresaw may have to do with this process, so another one tries again."""
    max_deaths = context.settings.max_step_attempts

    def count(session: Session, step: Step) -> None:
        step_died(session, step, max_deaths=max_deaths, cause=failure.cause, error=failure.reason)

    _with_held_step(context, count)


def compute_input_again(context: AuditContext, step: Step, damage: InputDamaged) -> None:
    """Have the step computed again whose artifact this one could not use; that too has its limit."""
    damaged = context.step(damage.step_id)
    limit = context.settings.max_step_attempts
    if damaged.status is StepStatus.SUCCEEDED and damaged.damages + 1 >= limit:
        fail(context, step, StepFailed(Cause.INFRASTRUCTURE, f"{damaged.title}: {damage.reason}"))
        return
    _with_held_step(
        context,
        lambda session, held: have_computed_again(session, damage.step_id, held, damage.reason),
    )


def _with_held_step(context: AuditContext, work: Callable[[Session, Step], None]) -> None:
    """Do `work` with the step at hand, unless it was done already and only the answer was lost."""

    def once(session: Session) -> None:
        lock_audit(session, context.lease.audit_id)
        if (step := held_step(session, context.lease)) is not None:
            work(session, step)

    context.write(once)


def reuse_identical(context: AuditContext, step: Step) -> bool:
    """Let the step stand for an identical one that succeeded before, if its artifact is intact.

    Raises:
        ArtifactStoreUnavailable: nobody can tell; hours of work may be there to be taken over.
    """
    query = (
        select(Step)
        .where(col(Step.key) == step.key, col(Step.status) == StepStatus.SUCCEEDED, col(Step.id) != step.id)
        .order_by(col(Step.finished_at))
        .limit(CANDIDATES)
    )
    candidates = context.read(lambda session: session.execute(query).scalars().all())
    earlier = next((candidate for candidate in candidates if _intact(context, candidate)), None)
    if earlier is None:
        return False
    _end_step(
        context,
        step,
        StepStatus.SUCCEEDED,
        "step.reused",
        told={"of": earlier.source_step_id},
        progress=1.0,
        source_step_id=earlier.source_step_id,
        artifact=earlier.artifact,
        artifact_sha256=earlier.artifact_sha256,
        outcome=earlier.outcome,
    )
    return True


def _end_step(
    context: AuditContext,
    step: Step,
    status: StepStatus,
    event: str,
    *,
    also: Callable[[Session], None] | None = None,
    told: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """Move the step at hand to its end, say so, and let go on what waited for it.

    Raises:
        LeaseLost: the audit is no longer running; nothing was written.
    """

    def end(session: Session) -> None:
        audit = lock_audit(session, step.audit_id)
        if held_step(session, context.lease) is None:
            return  # it was ended already: the connection was lost when that had been committed
        if audit.status is not AuditStatus.RUNNING:
            raise LeaseLost(f"audit {audit.id} is {audit.status}; the supervisor ends the attempt")
        move_step(session, step.id, status, held_by=context.lease.token, **values)
        append_event(session, step.audit_id, event, step=step.title, **(told or {}))
        if also is not None:
            also(session)
        settle(session, step.audit_id)
        wake_twins(session, step)

    context.write(end)


def _intact(context: AuditContext, step: Step) -> bool:
    if step.artifact is None or step.artifact_sha256 is None:
        return True
    try:
        context.store.verify(Artifact(step.artifact, step.artifact_sha256))
    except ArtifactCorrupt as error:
        log.warning("%s; %s is computed again", error, step.title)
        return False
    return True
