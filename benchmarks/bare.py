"""An audit's steps in one process, without the service: `python -m benchmarks.bare REQUEST`

No gateway, no broker, no lease, no child, no history: each step's function is called, and what it measured
is put where the analysis reads it, a database in memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool
from sqlmodel import Session

from services.worker.steps import plan
from services.worker.steps.context import AuditContext, replace_scores
from services.worker.steps.order import RUN
from shared.artifacts import ArtifactStore
from shared.leases import Lease
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.states import StepKind, StepStatus
from shared.tables import Audit, EditSet, Step, metadata

T = TypeVar("T")


class BareContext(AuditContext):
    """Writes and reads without a lease."""

    def write(self, work: Callable[[Session], T]) -> T:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    def read(self, work: Callable[[Session], T]) -> T:
        with Session(self.engine, expire_on_commit=False) as session:
            return work(session)

    def report_progress(self, step: Step, share: float, note: str | None = None) -> None:
        """Nobody watches."""


def main() -> None:
    """Run the audit that a file asks for and print its verdict."""
    request = AuditRequest.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    audit_id = add_audit(engine, request)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_directory=Path(folder))
        store = ArtifactStore(settings.resolved_artifacts_url)
        context = BareContext(engine, settings, store, Lease(audit_id, "", "", 0.0))
        run_step(context, context.steps()[0])
        for step in context.steps()[1:]:
            run_step(context, step)
        analysis = context.steps()[-1].outcome
        print(analysis["verdict"] if analysis else "no verdict")


def run_step(context: BareContext, step: Step) -> None:
    """Call the step's function, and keep what it measured for the steps that build on it."""
    outcome = plan.run(context, step) if step.kind is StepKind.PLAN else RUN[step.kind](context, step)

    def keep(session: Session) -> None:
        replace_scores(session, step.id, outcome.arms)
        if outcome.publish is not None:
            outcome.publish(session)
        kept = session.get_one(Step, step.id)
        kept.status, kept.source_step_id, kept.outcome = StepStatus.SUCCEEDED, step.id, outcome.record
        if outcome.artifact is not None:
            kept.artifact, kept.artifact_sha256 = outcome.artifact.name, outcome.artifact.sha256

    context.write(keep)


def add_audit(engine: Engine, request: AuditRequest) -> str:
    """Write the rows that steps are about; the audit's id."""
    now = datetime.now(UTC)
    edits = [edit.model_dump(mode="json") for edit in request.edits]
    edit_set = EditSet(content_hash="0" * 64, edit_count=len(edits), edits=edits, created_at=now)
    audit = Audit(
        submitter="nobody",
        request_hash="0" * 64,
        request=request.model_dump(mode="json", exclude={"edits"}),
        edit_set_id=edit_set.id,
        model_reference=request.model,
        created_at=now,
    )
    with Session(engine) as session, session.begin():
        for row in (
            edit_set,
            audit,
            Step(audit_id=audit.id, position=0, kind=StepKind.PLAN, title="plan", key="0" * 64),
        ):
            session.add(row)
            session.flush()
        return audit.id


if __name__ == "__main__":
    main()
