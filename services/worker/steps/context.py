"""What every step of one audit shares: its request, its lease, the loaded model, the way to write."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlmodel import Session, col

from services.worker.language_models.loading import LanguageModel
from services.worker.steps.model_source import load_audited_model
from shared.artifacts import Artifact, ArtifactStore
from shared.database import reading
from shared.leases import Lease, fenced
from shared.measurement import Arm, Probe, ProbeScore
from shared.recipes import InstructionRecord, Recipe, TextRecord
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.tables import Audit, EditSet, ProbeRow, Step
from shared.training_data import read_records

Records = list[TextRecord] | list[InstructionRecord]

PROGRESS_INTERVAL_SECONDS = 0.5
ROWS_PER_INSERT = 1000


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


@dataclass
class AuditContext:
    """One attempt at one audit. All writing goes through `fenced`, under the lease."""

    engine: Engine
    settings: Settings
    store: ArtifactStore
    lease: Lease
    _reported_at: float = 0.0
    _records: dict[str, Records] = field(default_factory=dict)

    @cached_property
    def audit(self) -> Audit:
        """The audit as it was when the attempt began."""
        with reading(self.engine) as session:
            return session.get_one(Audit, self.lease.audit_id)

    @cached_property
    def edit_set(self) -> EditSet:
        """The edits that the audit refers to."""
        with reading(self.engine) as session:
            return session.get_one(EditSet, self.audit.edit_set_id)

    @cached_property
    def request(self) -> AuditRequest:
        """The request, put together again from the audit and its edit set."""
        return AuditRequest.model_validate({**self.audit.request, "edits": self.edit_set.edits})

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model under audit, loaded once; steps leave it as they found it."""
        return load_audited_model(
            self.audit.model_reference, self.audit.model_revision, self.request.dtype, self.settings
        )

    def records(self, recipe: Recipe) -> Records:
        """The training data of a recipe, read once per attempt.

        Raises:
            UnusableTrainingData: nothing usable is there any more.
        """
        if recipe.name not in self._records:
            self._records[recipe.name] = read_records(recipe.data, recipe.objective, self.settings.data_roots)
        return self._records[recipe.name]

    def fenced(self) -> AbstractContextManager[Session]:
        """A transaction that commits only while this attempt holds its lease."""
        return fenced(self.engine, self.lease)

    def steps(self) -> list[Step]:
        """The audit's steps as they stand, in order."""
        with reading(self.engine) as session:
            return list(
                session.execute(
                    select(Step).where(col(Step.audit_id) == self.lease.audit_id).order_by(col(Step.position))
                ).scalars()
            )

    def step(self, step_id: str) -> Step:
        """One step as it stands."""
        with reading(self.engine) as session:
            return session.get_one(Step, step_id)

    def report_progress(self, step: Step, share: float, note: str | None = None) -> None:
        """Show how far `step` is; written at most twice a second."""
        now = time.monotonic()
        if now - self._reported_at < PROGRESS_INTERVAL_SECONDS:
            return
        self._reported_at = now
        with self.fenced() as session:
            session.execute(
                update(Step)
                .where(col(Step.id) == step.id, col(Step.lease_token) == self.lease.token)
                .values(progress=min(max(share, 0.0), 1.0), progress_note=note)
                .execution_options(synchronize_session=False)
            )


def insert_scores(session: Session, step_id: str, arms: Iterable[ArmScores]) -> None:
    """Write the probe scores of a step."""
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
