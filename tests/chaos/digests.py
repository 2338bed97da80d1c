"""What an audit found, as hashes that are equal when every number is, to the last bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Engine, inspect, select
from sqlmodel import col

from shared.database import reading
from shared.states import StepStatus
from shared.tables import Audit, ProbeRow, Step, StoredReport
from tests.chaos.history import Record
from tests.chaos.rules.work import SHARED_KINDS

NOT_OF_THE_RESULT = frozenset({"audit_id", "created_at", "step_id", "reused"})  # anywhere in a report


def digests(engine: Engine, type_: str, requests: Mapping[str, str]) -> Iterator[Record]:
    """A record per step that was computed and per report.

    type_: `reference` or `result`. requests: audit → the name of what was asked for.
    """
    with reading(engine) as session:
        steps = session.execute(
            select(Step)
            .where(
                col(Step.status) == StepStatus.SUCCEEDED,
                col(Step.source_step_id) == col(Step.id),
                col(Step.kind).in_(SHARED_KINDS),
            )
            .order_by(col(Step.id))
        ).scalars()
        for step in steps.all():
            rows = session.execute(
                select(ProbeRow).where(col(ProbeRow.step_id) == step.id).order_by(col(ProbeRow.id))
            ).scalars()
            scores = [_columns(row, left_out={"id", "step_id"}) for row in rows]
            yield {
                "type": type_,
                "of": "step",
                "name": step.key,
                "step": step.id,
                "audit": step.audit_id,
                "sha256": _digest({"scores": scores, "outcome": step.outcome}),
                "artifact": step.artifact_sha256,
            }
        reports = session.execute(select(StoredReport).join(Audit)).scalars()
        for report in reports.all():
            yield {
                "type": type_,
                "of": "report",
                "name": requests.get(report.audit_id, "nobody's"),
                "audit": report.audit_id,
                "sha256": _digest(_found(report.report)),
                "artifact": None,
            }


def _columns(row: ProbeRow, left_out: set[str]) -> dict[str, Any]:
    names = (column.key for column in inspect(ProbeRow).columns)
    return {name: getattr(row, name) for name in names if name not in left_out}


def _found(part: Any) -> Any:
    """A report without what names one run of it."""
    if isinstance(part, dict):
        return {name: _found(value) for name, value in part.items() if name not in NOT_OF_THE_RESULT}
    return [_found(item) for item in part] if isinstance(part, list) else part


def _digest(document: Any) -> str:
    """SHA-256 of a JSON document; Python writes a float so that exactly it is read back."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
