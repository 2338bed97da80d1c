"""Every accepted audit ends: once, in time when that was asked, and with a cause when it failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.states import AuditStatus, StepStatus
from tests.chaos.history import History, Record, Row
from tests.chaos.rules.violation import Violation

ACCEPTED = frozenset({"submit.accepted", "retry.accepted"})


def accepted_audits_end(history: History) -> Iterator[Violation]:
    """What was accepted is there and reaches a terminal state; so does what was written but not answered."""
    final = history.final_audits
    for record in _accepted(history):
        if record["audit"] not in final:
            yield Violation(f"audit {record['audit']} was accepted and is lost", (record["number"],))
    for audit in final.values():
        if not AuditStatus(audit["status"]).is_terminal:
            numbers = tuple(row.number for row in _changes_of_audit(history, audit["id"]))[-1:]
            yield Violation(f"audit {audit['id']} is {audit['status']} for ever", numbers)


def steps_end_with_their_audit(history: History) -> Iterator[Violation]:
    """Where an audit has ended, no step of it is left to be run."""
    for step in history.final_steps.values():
        audit = history.final_audits[step["audit_id"]]
        if AuditStatus(audit["status"]).is_terminal and not StepStatus(step["status"]).is_terminal:
            yield Violation(
                f"audit {audit['id']} is {audit['status']}, its {step['title']!r} {step['status']}"
            )


def one_audit_per_key(history: History) -> Iterator[Violation]:
    """However often one submitter sends one idempotency key, one audit is made and named."""
    named: dict[tuple[str, str], tuple[str, int]] = {}
    for row in history.changes("audit"):
        if row.operation == "insert" and row.new and row.new["idempotency_key"] is not None:
            yield from _same(named, row.new, row.new["id"], row.number, "idempotency_key")
    for record in _accepted(history):
        yield from _same(named, record, record["audit"], record["number"], "key")


def nothing_changes_after_the_end(history: History) -> Iterator[Violation]:
    """After the transaction that ends an audit nothing is written to it."""
    ended: dict[str, Row] = {}
    for row in history.rows:
        audit = _audit_of(history, row)
        end = ended.get(audit)
        if end and row.transaction != end.transaction and not _moves_audit(row):
            what = f"{row.operation} of {row.table} after audit {audit} became {end.values['status']}"
            yield Violation(what, (end.number, row.number))
        if row.table == "audit" and AuditStatus(row.values["status"]).is_terminal:
            ended.setdefault(audit, row)


def wake_ups_leave(history: History) -> Iterator[Violation]:
    """The workers were told of every accepted audit at least once, or took it unasked, or it ended queued."""
    told = {row.values["audit_id"] for row in history.changes("outbox_message") if row.values["sent_at"]}
    claimed = {row.values["audit_id"] for row in history.changes("attempt")}
    for record in _accepted(history):
        audit = history.final_audits.get(record["audit"])
        if audit is None or audit["id"] in told | claimed or audit["status"] in {"cancelled", "expired"}:
            continue
        yield Violation(f"no worker was ever told of audit {audit['id']}", (record["number"],))


def cancels_are_in_time(history: History) -> Iterator[Violation]:
    """A running audit is cancelled within the bound; within the longer one where a fault came between.

    A fault comes between when it hit a worker of the audit, or what all depend on, no longer before
    the cancel than the longer bound.
    """
    usual, forced = history.header["cancel_seconds"], history.header["forced_cancel_seconds"]
    asked: dict[str, Row] = {}
    for row in history.changes("audit"):
        if row.became("cancelling"):
            asked[row.values["id"]] = row
        start = asked.get(row.values["id"])
        if start is None or not row.became("cancelled"):
            continue
        took = row.at - start.at
        disturbed = _was_disturbed(history, row.values["id"], start.at - forced, row.at)
        if took > (forced if disturbed else usual):
            what = f"cancelling audit {row.values['id']} took {took:.1f} s"
            yield Violation(
                what + (", with a fault in between" if disturbed else ""), (start.number, row.number)
            )


def failures_have_causes(history: History) -> Iterator[Violation]:
    """What failed says whose fault it was, and why."""
    for row in [*history.changes("audit"), *history.changes("step")]:
        if row.became("failed") and (row.values["cause"] is None or not row.values["error"]):
            yield Violation(f"{row.table} {row.values['id']} failed without a cause", (row.number,))


def _accepted(history: History) -> Iterator[Record]:
    return (record for record in history.of_type("client") if record["act"] in ACCEPTED)


def _same(
    named: dict[tuple[str, str], tuple[str, int]], of: dict[str, Any], audit: str, number: int, column: str
) -> Iterator[Violation]:
    key = (of["submitter"], of[column])
    first, where = named.setdefault(key, (audit, number))
    if first != audit:
        yield Violation(f"key {key[1]} of {key[0]} stands for audits {first} and {audit}", (where, number))


def _changes_of_audit(history: History, audit: str) -> Iterator[Row]:
    return (row for row in history.changes("audit") if row.values["id"] == audit)


def _audit_of(history: History, row: Row) -> str:
    """The audit that a row belongs to; empty for a wake-up, which may outlive its audit's end."""
    if row.table == "outbox_message":
        return ""
    if row.table == "probe_row":
        return history.audit_of_step[row.values["step_id"]]
    return str(row.values["id" if row.table == "audit" else "audit_id"])


def _moves_audit(row: Row) -> bool:
    """Whether a change of an audit is one of its state, which another rule judges."""
    return row.table == "audit" and row.before != row.values["status"]


def _was_disturbed(history: History, audit: str, since: float, until: float) -> bool:
    workers = {row.values["worker"] for row in history.changes("attempt") if row.values["audit_id"] == audit}
    return any(
        since <= fault["at"] <= until and not workers.isdisjoint(fault["workers"])
        for fault in history.of_type("fault")
    )
