"""Audits whose steps run in the test's own process, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlmodel import SQLModel, col

from services.worker.steps.content_keys import code_version
from services.worker.steps.context import AuditContext
from services.worker.steps.model_source import ModelKeeper
from services.worker.steps.order import next_step, run_step
from shared.artifacts import ArtifactStore
from shared.claims import claim
from shared.database import create_database_engine, transaction
from shared.leases import Lease
from shared.reports import Report
from shared.settings import Settings
from shared.states import StepKind
from shared.tables import Audit, Event, ProbeRow, Step, StoredReport
from tests.support.parity_audit import PARITY_GPT2, submit_directly


def claimed(folder: Path, body: dict[str, Any], **settings: Any) -> AuditContext:
    """Submit a request and claim it, without running anything."""
    chosen = Settings(**{"data_directory": folder, "model_roots": (PARITY_GPT2,), **settings})
    engine = create_database_engine(chosen.resolved_database_url)
    SQLModel.metadata.create_all(engine)
    submit_directly(engine, body)
    store = ArtifactStore(chosen.resolved_artifacts_url)
    return AuditContext(engine, chosen, store, claim_next(engine))


def claim_next(engine: Engine, worker: str = "worker") -> Lease:
    """The lease of whatever is to be claimed next."""
    lease = claim(engine, worker, 600, code_version())
    assert lease is not None
    return lease


def another_worker(context: AuditContext, worker: str = "another") -> AuditContext:
    """A worker that claims what is next, with a model of its own."""
    lease = claim_next(context.engine, worker)
    return AuditContext(context.engine, context.settings, context.store, lease, models=ModelKeeper())


def run_steps(context: AuditContext, count: int) -> None:
    """Run the next `count` steps."""
    for _ in range(count):
        step = next_step(context)
        assert step is not None
        run_step(context, step)


def audit_of(context: AuditContext) -> Audit:
    """The audit as it stands."""
    with transaction(context.engine) as session:
        return session.get_one(Audit, context.lease.audit_id)


def report_of(context: AuditContext) -> Report:
    """The report that was written."""
    with transaction(context.engine) as session:
        return Report.model_validate(session.get_one(StoredReport, context.lease.audit_id).report)


def steps_of(context: AuditContext, kind: StepKind) -> list[Step]:
    """The audit's steps of one kind."""
    return [step for step in context.steps() if step.kind is kind]


def rows_of(context: AuditContext, step: Step) -> list[ProbeRow]:
    """The probe scores that a step stands for, in the order in which they were written."""
    query = select(ProbeRow).where(col(ProbeRow.step_id) == step.source_step_id).order_by(col(ProbeRow.id))
    with transaction(context.engine) as session:
        return list(session.execute(query).scalars())


def scores_of(context: AuditContext) -> list[tuple[Any, ...]]:
    """Every probe score of the audit, exactly."""
    columns = set(ProbeRow.model_fields) - {"id", "step_id"}
    return [
        (step.title, *(getattr(row, column) for column in sorted(columns)))
        for step in context.steps()
        for row in rows_of(context, step)
    ]


def events_of(context: AuditContext) -> list[str]:
    """The kinds of the audit's events, in order."""
    query = select(col(Event.kind)).where(col(Event.audit_id) == context.lease.audit_id)
    with transaction(context.engine) as session:
        return list(session.execute(query.order_by(col(Event.sequence))).scalars())
