"""What every step of one audit shares: its request, its lease, the loaded model, the way to write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import Engine, delete, insert, select, update
from sqlmodel import Session, col

from services.worker.language_models.loading import LanguageModel
from services.worker.orders import AskedToLeave, Orders
from services.worker.steps.model_source import ModelKeeper
from shared.artifacts import Artifact, ArtifactStore
from shared.database import database_now, reading
from shared.events import append_event
from shared.leases import Lease, fenced
from shared.measurement import Arm, Probe, ProbeScore
from shared.patience import patiently
from shared.recipes import Recipe, TextRecord, TrainingRecord
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.states import StepKind, StepStatus
from shared.tables import Audit, EditSet, ProbeRow, Step
from shared.training_data import Corpus, Origins, recipe_corpus, recipe_replay
from shared.training_sets import origins

Records = list[TrainingRecord]

PROGRESS_INTERVAL_SECONDS = 0.5
ROWS_PER_INSERT = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class ArmScores:
    """How every probe scored at one arm, `tuning_step` optimiser steps into fine-tuning."""

    arm: Arm
    tuning_step: int
    probes: list[Probe]
    scores: list[ProbeScore]


@dataclass(frozen=True)
class StepOutcome:
    """What a step leaves behind: an artifact, a small JSON record, and probe scores."""

    record: dict[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None
    arms: list[ArmScores] = field(default_factory=list)
    publish: Callable[[Session], None] | None = None  # what else is written in the step's last transaction


@dataclass
class AuditContext:
    """One attempt at one audit. All writing goes through `write`, under the lease."""

    engine: Engine
    settings: Settings
    store: ArtifactStore
    lease: Lease
    orders: Orders = field(default_factory=Orders)
    models: ModelKeeper = field(default_factory=ModelKeeper)
    failed_unforeseen: bool = False
    _reported_at: float = 0.0
    _corpora: dict[str, Corpus] = field(default_factory=dict)

    @cached_property
    def audit(self) -> Audit:
        """The audit as it was when the attempt began."""
        return self.read(lambda session: session.get_one(Audit, self.lease.audit_id))

    @cached_property
    def edit_set(self) -> EditSet:
        """The edits that the audit refers to."""
        return self.read(lambda session: session.get_one(EditSet, self.audit.edit_set_id))

    @cached_property
    def request(self) -> AuditRequest:
        """The request, put together again from the audit and its edit set."""
        return AuditRequest.model_validate({**self.audit.request, "edits": self.edit_set.edits})

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model under audit; steps leave it as they found it."""
        return self.models.model(
            self.audit.model_reference, self.audit.model_revision, self.request.dtype, self.settings
        )

    @cached_property
    def origins(self) -> Origins:
        """What training data may be read from."""
        return origins(self.settings, self.engine)

    def records(self, recipe: Recipe) -> Records:
        """The training data of a recipe, read once per attempt.

        Raises:
            UnusableTrainingData: nothing usable is there any more.
        """
        return self.corpus(recipe).records

    def corpus(self, recipe: Recipe) -> Corpus:
        """The same, with what is to be told of it."""
        if recipe.name not in self._corpora:
            self._corpora[recipe.name] = recipe_corpus(recipe, self.request, self.origins)
        return self._corpora[recipe.name]

    def replay(self, recipe: Recipe) -> list[TextRecord]:
        """The plain text that a recipe mixes into training; none where it asks for none.

        Raises:
            UnusableTrainingData: nothing usable is there any more.
        """
        return recipe_replay(recipe, self.request, self.origins)

    def write(self, work: Callable[[Session], T]) -> T:
        """Do `work` in a transaction that commits only while the attempt is open.

        It is done again when the database was away, so doing it twice must do no harm.

        Raises:
            LeaseLost: somebody else has ended the attempt; nothing was written.
        """

        def once() -> T:
            with fenced(self.engine, self.lease) as session:
                return work(session)

        return patiently(once)

    def read(self, work: Callable[[Session], T]) -> T:
        """Do `work` on one state of the database."""

        def once() -> T:
            with reading(self.engine) as session:
                return work(session)

        return patiently(once)

    def steps(self) -> list[Step]:
        """The audit's steps as they stand, in order."""
        query = select(Step).where(col(Step.audit_id) == self.lease.audit_id).order_by(col(Step.position))
        return self.read(lambda session: list(session.execute(query).scalars()))

    def step(self, step_id: str) -> Step:
        """One step as it stands."""
        return self.read(lambda session: session.get_one(Step, step_id))

    def say(self, step: Step, kind: str, **data: Any) -> None:
        """Add an event about `step` to the audit's history."""
        self.write(lambda session: append_event(session, step.audit_id, kind, step=step.title, **data))

    def report_progress(self, step: Step, share: float, note: str | None = None) -> None:
        """Show how far `step` is; written at most twice a second. While the worker is paused, so is this.

        Raises:
            AskedToLeave: the worker is stopped, and nothing of this kind of step could be kept.
        """
        self.orders.wait_while_paused()
        if self.orders.hand_over.is_set() and step.kind is not StepKind.TUNE:  # which is saved first
            raise AskedToLeave
        now = time.monotonic()
        if now - self._reported_at < PROGRESS_INTERVAL_SECONDS:
            return
        self._reported_at = now
        update_held(
            self,
            step,
            progress=min(max(share, 0.0), 1.0),
            progress_note=note,
            progressed_at=database_now(),
        )

    def asked_to_hand_over(self) -> bool:
        """Whether the step at hand is to be left for another worker as soon as it has been saved."""
        return self.orders.hand_over.is_set()


def update_held(context: AuditContext, step: Step, **values: Any) -> None:
    """Write columns of a step that the attempt still holds."""
    context.write(
        lambda session: session.execute(
            update(Step)
            .where(
                col(Step.id) == step.id,
                col(Step.lease_token) == context.lease.token,
                col(Step.status) == StepStatus.RUNNING,
            )
            .values(values)
            .execution_options(synchronize_session=False)
        )
    )


def replace_scores(session: Session, step_id: str, arms: Iterable[ArmScores]) -> None:
    """Write the probe scores of a step; those of an earlier run of it, which it repeats, go."""
    session.execute(delete(ProbeRow).where(col(ProbeRow.step_id) == step_id))
    rows = [
        {
            "step_id": step_id,
            "arm": arm.arm,
            "tuning_step": arm.tuning_step,
            "fact_id": probe.fact_id,
            "fact_kind": probe.fact_kind,
            "probe_kind": probe.probe_kind,
            "probe_index": probe.index,
            "prompt": probe.prompt,
            "answer": probe.answer,
            **vars(score),
        }
        for arm in arms
        for probe, score in zip(arm.probes, arm.scores, strict=True)
    ]
    for start in range(0, len(rows), ROWS_PER_INSERT):
        session.execute(insert(ProbeRow), rows[start : start + ROWS_PER_INSERT])
