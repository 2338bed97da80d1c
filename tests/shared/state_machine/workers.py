"""Workers without a model: the product's own order of steps, with results that the test decides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlmodel import Session

from services.worker.orders import AskedToLeave, Order
from services.worker.steps import order
from services.worker.steps.content_keys import code_version
from services.worker.steps.context import AuditContext, StepOutcome, update_held
from services.worker.steps.failures import InputDamaged, StepFailed
from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStore, ArtifactStoreUnavailable
from shared.leases import Lease, fenced, renew
from shared.recovery import hand_over, lose
from shared.settings import Settings
from shared.states import Cause, StepKind, StepStatus
from shared.tables import Step
from tests.shared.state_machine.model import (
    CANCEL_DEADLINE_SECONDS,
    LEASE_SECONDS,
    MAX_DEATHS,
    RETRY_WAIT_SECONDS,
    TURN_SECONDS,
)
from tests.shared.state_machine.records import STORED, ModelAttempt, ModelStep
from tests.shared.state_machine.shapes import OLD_CODE

T = TypeVar("T")
SHA256 = "0" * 64
SETTINGS = Settings(
    data_directory=Path(tempfile.gettempdir()),  # nothing is written there
    lease_seconds=LEASE_SECONDS,
    max_step_attempts=MAX_DEATHS,
    retry_wait_seconds=RETRY_WAIT_SECONDS,
    turn_seconds=TURN_SECONDS,
    cancel_deadline_seconds=CANCEL_DEADLINE_SECONDS,
)


class Ending(StrEnum):
    """How the computation of a step ends."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNFORESEEN = "unforeseen"
    SURROUNDINGS_AWAY = "surroundings away"
    INPUT_DAMAGED = "input damaged"  # of a step that builds on an edit; else success
    ASKED_TO_LEAVE = "asked to leave"


class StoreOfNames(ArtifactStore):
    """Knows of artifacts only whether they are damaged."""

    def __init__(self) -> None:
        self.damaged: frozenset[str] = frozenset()

    def verify(self, artifact: Artifact) -> None:
        """Find damage."""
        if artifact.name in self.damaged:
            raise ArtifactCorrupt(artifact.name)

    def delete(self, artifact: Artifact) -> None:
        """There is nothing to delete."""


class StutteringContext(AuditContext):
    """Whose every write is committed and then done again, as when the commit's answer was lost."""

    def write(self, work: Callable[[Session], T]) -> T:
        """Write twice; the second answer counts."""
        super().write(work)
        return super().write(work)


@dataclass
class Spell:
    """A worker at work on an audit, and what the model knows of it."""

    lease: Lease
    context: AuditContext
    attempt: ModelAttempt
    last: ModelStep  # the step that it took last
    was_refused: bool = False
    stuttering: StutteringContext = field(init=False)

    def __post_init__(self) -> None:
        context = self.context
        self.stuttering = StutteringContext(
            context.engine, context.settings, context.store, context.lease, context.orders
        )

    def agree(self) -> None:
        """A process knows of itself that something unforeseen has happened to it."""
        unforeseen = self.context.failed_unforeseen or self.stuttering.failed_unforeseen
        self.context.failed_unforeseen = self.stuttering.failed_unforeseen = unforeseen

    def drain(self) -> None:
        """No further step is to be taken."""
        self.context.orders.take(Order.FINISH)
        self.attempt.leaving = True


def begin_spell(engine: Engine, store: ArtifactStore, lease: Lease, attempt: ModelAttempt) -> Spell:
    """A worker with the lease that it claimed."""
    assert attempt.step is not None
    return Spell(lease, AuditContext(engine, SETTINGS, store, lease), attempt, attempt.step)


@contextmanager
def steps_end(ending: Ending, of: ModelStep, publish: Callable[[Session], None] | None) -> Iterator[None]:
    """Have the computation of a step end so while the context lasts."""

    def run(_context: AuditContext, _step: Step) -> StepOutcome:
        if ending is Ending.FAILURE:
            raise StepFailed(Cause.MODEL, "the weights are not finite")
        if ending is Ending.UNFORESEEN:
            raise ZeroDivisionError
        if ending is Ending.SURROUNDINGS_AWAY:
            raise ArtifactStoreUnavailable(OSError("no route to the store"))
        if ending is Ending.ASKED_TO_LEAVE:
            raise AskedToLeave
        if ending is Ending.INPUT_DAMAGED and of.reads is not None:
            raise InputDamaged(of.reads.id, "the delta does not have its hash")
        record = {"verdict": "pass"} if of.kind == "analyse" else {}
        artifact = Artifact(of.current_key, SHA256) if of.kind in STORED else None
        return StepOutcome(record=record, artifact=artifact, publish=publish)

    real = dict(order.RUN)
    order.RUN.update(dict.fromkeys(StepKind, run))
    try:
        yield
    finally:
        order.RUN.update(real)


def run_step(context: AuditContext, ending: Ending, of: ModelStep, publish: Any = None) -> None:
    """Run a step as a worker does; whoever is asked to leave hands it over."""
    step = context.step(of.id)
    with steps_end(ending, of, publish):
        try:
            order.run_step(context, step)
        except AskedToLeave:
            context.write(lambda session: hand_over(session, context.lease, "its worker was stopped"))


def publish(session: Session, audit_id: str, planned: list[ModelStep]) -> None:
    """Write the steps that a plan lays out, as far as they have got."""
    session.add_all(
        Step(
            id=step.id,
            audit_id=audit_id,
            position=step.position,
            kind=StepKind(step.kind),
            title=step.key,
            key=step.key,
            code_version=OLD_CODE if step.key.startswith("old") else code_version(),
            needs=[needed.id for needed in step.needs],
            inputs={"edit_step": step.reads.id if step.reads else None},
            status=StepStatus(step.status),
            finished_at=step.finished_at,
            source_step_id=step.source,
            deaths=step.deaths,
            damages=step.damages,
            progress=step.progress,
            artifact=step.artifact,
            artifact_sha256=SHA256 if step.artifact else None,
        )
        for step in planned
    )


def report(context: AuditContext, of: ModelStep, share: float, *, saved: bool) -> None:
    """Show progress, and keep what has been done so far."""
    step = context.step(of.id)
    context._reported_at = 0.0  # however recently something was reported
    context.report_progress(step, share)
    if saved:
        update_held(context, step, checkpoint=of.id, checkpoint_sha256=SHA256, checkpoint_progress=share)


def lose_fenced(engine: Engine, lease: Lease) -> None:
    """What a supervisor does whose child has died."""
    with fenced(engine, lease) as session:
        lose(session, lease, max_deaths=MAX_DEATHS, cause=Cause.INFRASTRUCTURE, error="killed")


def hand_over_fenced(engine: Engine, lease: Lease) -> None:
    """What a supervisor does whose child was stopped."""
    with fenced(engine, lease) as session:
        hand_over(session, lease, "its worker was stopped")


def every_write(spell: Spell) -> list[Callable[[], object]]:
    """Each way in which a worker can write."""
    context, lease, last = spell.context, spell.lease, spell.last
    return [
        lambda: renew(context.engine, lease),
        lambda: order.next_step(context),
        *(lambda ending=ending: run_step(context, ending, last) for ending in Ending),
        lambda: report(context, last, 0.5, saved=False),
        lambda: update_held(context, context.step(last.id), checkpoint="a zombie's"),
        lambda: context.say(context.step(last.id), "step.resumed", share=0.5),
        lambda: hand_over_fenced(context.engine, lease),
        lambda: lose_fenced(context.engine, lease),
    ]
