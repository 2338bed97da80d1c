"""Audits and steps move only where their states lead, and every event has its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from shared.states import AUDIT_TRANSITIONS, STEP_TRANSITIONS, AuditStatus, StepStatus
from tests.chaos.history import History, Row
from tests.chaos.rules.violation import Violation

Status = TypeVar("Status", AuditStatus, StepStatus)


def moves_of_audits_are_legal(history: History) -> Iterator[Violation]:
    """An audit begins as queued, moves by the table, is never taken away."""
    for row in history.changes("audit"):
        yield from _move(row, AuditStatus, AUDIT_TRANSITIONS, AuditStatus.QUEUED)
        if row.operation == "delete":
            yield Violation(f"audit {row.values['id']} was deleted", (row.number,))


def moves_of_steps_are_legal(history: History) -> Iterator[Violation]:
    """A step begins as pending, moves by the table, is never taken away."""
    for row in history.changes("step"):
        yield from _move(row, StepStatus, STEP_TRANSITIONS, StepStatus.PENDING)
        if row.operation == "delete":
            yield Violation(f"step {row.values['title']!r} was deleted", (row.number,))


def finished_when_terminal(history: History) -> Iterator[Violation]:
    """An audit has a time of its end exactly while it is at its end."""
    for row in history.changes("audit"):
        if row.new and AuditStatus(row.new["status"]).is_terminal != (row.new["finished_at"] is not None):
            what = f"audit {row.new['id']} is {row.new['status']}; finished_at is {row.new['finished_at']}"
            yield Violation(what, (row.number,))


def events_are_numbered(history: History) -> Iterator[Violation]:
    """An audit's events count 1, 2, 3 … in the order they were written, and stay."""
    last: dict[str, int] = {}
    for row in history.changes("event"):
        audit, sequence = row.values["audit_id"], row.values["sequence"]
        if row.operation != "insert":
            yield Violation(f"event {sequence} of audit {audit}: {row.operation}", (row.number,))
            continue
        if sequence != last.get(audit, 0) + 1:
            yield Violation(f"event {sequence} of audit {audit} follows {last.get(audit, 0)}", (row.number,))
        last[audit] = sequence


def _move(
    row: Row, statuses: type[Status], transitions: Mapping[Status, frozenset[Status]], first: Status
) -> Iterator[Violation]:
    if row.new is None:
        return
    wanted = statuses(row.new["status"])
    if row.old is None:
        if wanted != first:
            yield Violation(f"{row.table} {row.new['id']} began as {wanted}", (row.number,))
        return
    current = statuses(row.old["status"])
    if wanted != current and wanted not in transitions[current]:
        yield Violation(f"{row.table} {row.new['id']} went from {current} to {wanted}", (row.number,))
