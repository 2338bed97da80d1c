"""Audits as the service shows them, for tests to vary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from shared.states import AuditStatus, StepKind, StepStatus
from shared.views import AttemptView, AuditView, DeadlinesView, EventView, StepView

START = datetime(2026, 1, 1, tzinfo=UTC)


def step(identifier: str, status: StepStatus = StepStatus.PENDING, **changes: Any) -> StepView:
    """A step that took 65 seconds, if it has ended."""
    started = None if status is StepStatus.PENDING else START
    finished = START + timedelta(seconds=65) if status.is_terminal else None
    fields: dict[str, Any] = {
        "id": identifier,
        "kind": StepKind.EDIT,
        "title": f"step {identifier}",
        "status": status,
        "progress": 1.0 if status is StepStatus.SUCCEEDED else 0.0,
        "progress_note": None,
        "seconds_left": None,
        "reused": False,
        "deaths": 0,
        "cause": None,
        "error": None,
        "started_at": started,
        "finished_at": finished,
    }
    return StepView(**{**fields, **changes})


def audit(status: AuditStatus = AuditStatus.RUNNING, **changes: Any) -> AuditView:
    """An audit of five edits."""
    fields: dict[str, Any] = {
        "id": "a" * 32,
        "status": status,
        "verdict": None,
        "model": "builtin:almanac",
        "edit_count": 5,
        "labels": {},
        "priority": 0,
        "submitter": "holdfast",
        "created_at": START,
        "started_at": START,
        "finished_at": None,
        "model_revision": None,
        "edit_set_id": "e" * 32,
        "edit_set_hash": "h" * 64,
        "cause": None,
        "error": None,
        "retry_of": None,
        "from_scratch": False,
        "progress": 0.0,
        "seconds_left": None,
        "queue_position": None,
        "starts_in_seconds": None,
        "deadlines": DeadlinesView(expires_at=None, run_seconds=None),
        "steps": [],
        "attempts": [],
        "phase_history": [],
        "links": {},
    }
    return AuditView(**{**fields, **changes})


def attempt(number: int, **changes: Any) -> AttemptView:
    """An attempt whose worker is between two steps."""
    fields: dict[str, Any] = {
        "number": number,
        "worker": f"host:{number}",
        "step_id": None,
        "step": None,
        "started_at": START,
        "ended_at": None,
        "cause": None,
        "error": None,
    }
    return AttemptView(**{**fields, **changes})


def event(kind: str, **data: Any) -> EventView:
    """Something that happened."""
    return EventView(sequence=1, at=START, kind=kind, data=data)
