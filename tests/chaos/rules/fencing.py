"""Every write of a worker happens under the token of an attempt that is open and of the same audit."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.history import History, Row
from tests.chaos.rules.violation import Violation


def writes_are_fenced(history: History) -> Iterator[Violation]:
    """The transaction of a worker's write first finds its attempt open, under its token.

    Only claims may write before: they make the attempt in the same transaction.
    """
    token_of_step: dict[str, str | None] = {}
    for row in history.rows:
        if row.table == "step" and row.new and row.new["status"] == "running":
            token_of_step[row.new["id"]] = row.new["lease_token"]
        needed = _writes_as_a_worker(row)
        if not needed:
            continue
        audit = history.audit_of_step[row.values["step_id"]] if row.table == "probe_row" else None
        audit = audit or (row.values["id"] if row.table == "audit" else row.values["audit_id"])
        token: str | None = None
        if row.table in {"step", "probe_row"}:
            token = token_of_step.get(row.values["id" if row.table == "step" else "step_id"])
            if token is None:
                yield Violation(f"{needed} of audit {audit} under no token", (row.number,))
                continue
        fences = [
            attempt
            for attempt in history.transactions[row.transaction]
            if _finds_open(attempt) and (attempt.number < row.number or row.became("running"))
        ]
        if not any(
            fence.values["audit_id"] == audit and token in {None, fence.values["lease_token"]}
            for fence in fences
        ):
            what = f"{needed} of audit {audit} without its attempt being open ({token or 'any token'})"
            yield Violation(what, (row.number, *_end_of_attempt(history, token)))


def attempts_are_numbered(history: History) -> Iterator[Violation]:
    """An audit's attempts count 1, 2, 3 … and an attempt that has ended stays so."""
    last: dict[str, int] = {}
    for row in history.changes("attempt"):
        audit, number = row.values["audit_id"], row.values["number"]
        if row.old and row.old["ended_at"] is not None:
            yield Violation(f"attempt {number} of audit {audit}, which had ended, changed", (row.number,))
        if row.operation == "insert":
            if number != last.get(audit, 0) + 1:
                what = f"attempt {number} of audit {audit} follows {last.get(audit, 0)}"
                yield Violation(what, (row.number,))
            last[audit] = number


def one_publication(history: History) -> Iterator[Violation]:
    """A report is written once, and by the time an audit has succeeded it is there."""
    published: dict[str, int] = {}
    for row in history.rows:
        if row.table == "report":
            audit = row.values["audit_id"]
            if audit in published:
                what = f"the report of audit {audit} was published, then: {row.operation}"
                yield Violation(what, (published[audit], row.number))
            published[audit] = row.number
        if row.table == "audit" and row.new and row.became("succeeded"):
            in_transaction = history.transactions[row.transaction]
            if row.new["id"] not in published and not any(
                other.table == "report" and other.values["audit_id"] == row.new["id"]
                for other in in_transaction
            ):
                yield Violation(f"audit {row.new['id']} succeeded without a report", (row.number,))


def _writes_as_a_worker(row: Row) -> str:
    """What a row's change is, in words, when only the holder of a lease may make it; else empty."""
    if row.table == "probe_row":
        return f"{row.operation} of a probe's score"
    if row.table == "report":
        return f"{row.operation} of the report"
    if row.table == "audit" and row.became("succeeded"):
        return "success"
    if row.table != "step" or row.new is None:
        return ""
    title = row.new["title"]
    if row.became("running"):
        return f"start of step {title!r}"
    if row.became("succeeded"):
        return f"success of step {title!r}"
    if row.became("failed") and row.old and row.new["deaths"] == row.old["deaths"]:
        return f"failure of step {title!r}"
    if row.before == row.new["status"] == "running":
        return f"progress of step {title!r}"
    return ""


def _finds_open(row: Row) -> bool:
    """Whether a change of an attempt shows that the attempt was open until then."""
    return row.table == "attempt" and (row.old is None or row.old["ended_at"] is None)


def _end_of_attempt(history: History, token: str | None) -> tuple[int, ...]:
    ends = (
        row.number
        for row in history.changes("attempt")
        if row.new and row.new["lease_token"] == token and row.new["ended_at"] is not None
    )
    return tuple(ends)[:1]
