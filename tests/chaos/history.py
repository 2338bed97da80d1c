"""What a chaos run leaves behind: one JSON object per line, in the order in which things happened.

Every record has `number` (1, 2, 3 … without gaps), `at` (seconds since 1970 by a clock that no fault
touches) and `type`, which is one of

header      first: `deployment`, `seed`, `max_step_attempts`, and two bounds in seconds from an accepted
            cancel to `cancelled`: `cancel_seconds` where no fault came between, else
            `forced_cancel_seconds`.
row         a row of the database was changed, as told by a trigger in the same transaction: `table`,
            `operation` (insert, update, delete), `transaction` (equal for the rows of one transaction
            and for no others), `old` and `new` (the columns in `recorder.COLUMNS`; times in seconds
            since 1970; None where there is none). For one row, and for two transactions of which
            one waited for the other, the order is the database's.
client      what a submitter did: `act` and its particulars. `submit` or `retry`, then `.invoked`
            (`key`, `submitter`, `request`: the name of what is asked for), `.repeated` (the same call
            again: no answer came) or `.accepted` (the same and `audit`); `cancel.invoked`,
            `cancel.accepted` or `cancel.refused` (`audit`).
fault       `kind`, `target` (the artifact where it damaged one, else None), `workers` (the names of the
            workers that it hit: all of them where it hit what they share), `act`: `began` or `healed`,
            and `fault`, a number that the two share.
delivery    a wake-up that nobody asked for: `kind` (duplicated, delayed, unknown), `audit`.
reference   a result of the uninterrupted run: `of` (step, report), `name` (a step's key, a report's
            request), `sha256`, and for a step `artifact` (a hash too, or None).
result      the same of the run under faults, with the `audit` that it belongs to.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A change of one row, with shorthands for what the rules ask of it."""

    number: int
    at: float
    table: str
    operation: str
    transaction: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None

    @property
    def values(self) -> dict[str, Any]:
        """The row as it is after the change; as it was, for one that is gone."""
        return self.new or self.old or {}

    def became(self, status: str) -> bool:
        """Whether the change brought the row to `status`."""
        return self.new is not None and self.new["status"] == status and self.before != status

    @property
    def before(self) -> str | None:
        """The status before the change."""
        return self.old["status"] if self.old else None


@dataclass(frozen=True)
class History:
    """Everything that a run recorded, in order."""

    records: list[Record]

    @property
    def header(self) -> Record:
        """Seed, deployment and bounds."""
        return self.records[0]

    def of_type(self, kind: str) -> Iterator[Record]:
        """The records of one type."""
        return (record for record in self.records if record["type"] == kind)

    @cached_property
    def rows(self) -> list[Row]:
        """Every change of a row."""
        return [
            Row(
                **{
                    name: record[name]
                    for name in ("number", "at", "table", "operation", "transaction", "old", "new")
                }
            )
            for record in self.of_type("row")
        ]

    @cached_property
    def rows_by_table(self) -> dict[str, list[Row]]:
        """The changes of each table."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.table, []).append(row)
        return grouped

    def changes(self, table: str) -> list[Row]:
        """The changes of one table."""
        return self.rows_by_table.get(table, [])

    @cached_property
    def transactions(self) -> dict[str, list[Row]]:
        """The changes of each transaction."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.transaction, []).append(row)
        return grouped

    @cached_property
    def final_audits(self) -> dict[str, dict[str, Any]]:
        """Every audit as the run left it."""
        return {row.values["id"]: row.values for row in self.changes("audit")}

    @cached_property
    def final_steps(self) -> dict[str, dict[str, Any]]:
        """Every step as the run left it, but what was deleted."""
        deleted = {row.values["id"] for row in self.changes("step") if row.new is None}
        return {
            row.values["id"]: row.values for row in self.changes("step") if row.values["id"] not in deleted
        }

    @cached_property
    def audit_of_step(self) -> dict[str, str]:
        """The audit that each step ever belonged to."""
        return {row.values["id"]: row.values["audit_id"] for row in self.changes("step")}


def merged(header: Record, *streams: Iterable[Record]) -> History:
    """One history out of several streams, each in its own order; every record gets its number.

    A stream's order is kept although its times may be a little out of order: two transactions that run
    at once read the clock before it is known which of them commits first.
    """
    records = [header, *heapq.merge(*streams, key=itemgetter("at"))]
    return History([{**record, "number": number} for number, record in enumerate(records, start=1)])


def write(history: History, path: Path) -> None:
    """Store a history as a file."""
    with path.open("w") as file:
        for record in history.records:
            file.write(json.dumps(record) + "\n")


def read(path: Path) -> History:
    """Load a history.

    Raises:
        ValueError: the file is none, or was cut short.
    """
    records = [json.loads(line) for line in path.read_text().splitlines()]
    if not records or records[0].get("type") != "header":
        raise ValueError(f"{path} does not begin with a header")
    if [record["number"] for record in records] != list(range(1, len(records) + 1)):
        raise ValueError(f"{path} has gaps")
    return History(records)
