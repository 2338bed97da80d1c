"""What must be true of the database after every move, whatever the model says."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.shared.state_machine.clock import ClockedDatabase, moment
from tests.shared.state_machine.model import MAX_DEATHS, Model
from tests.shared.state_machine.records import AUDIT_MOVES, ENDED, STEP_ENDED, ModelAudit

Row = dict[str, Any]
AUDIT = "id, status, event_count, expires_at, finished_at, verdict"
STEP = (
    "id, audit_id, kind, status, key, needs, ready_at, lease_token, deaths, delays, damages, progress,"
    " finished_at, source_step_id, artifact"
)
ATTEMPT = "id, audit_id, number, lease_token, lease_expires_at, ended_at"


@dataclass
class Watch:
    """Looks at the database again and again; what it saw of ended audits must not change."""

    database: ClockedDatabase
    ended: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)  # audit → its rows
    history: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # audit → event kinds
    seen: int = 0  # events

    def look(self, model: Model) -> None:
        """Check everything."""
        audits = self._read("audit", AUDIT)
        steps = self._read("step", STEP)
        attempts = self._read("attempt", ATTEMPT)
        self._read_events(audits)
        for audit in audits:
            its_steps = [step for step in steps if step["audit_id"] == audit["id"]]
            its_attempts = [attempt for attempt in attempts if attempt["audit_id"] == audit["id"]]
            check_attempts(audit, its_steps, its_attempts)
            check_steps(its_steps)
            check_goes_on(audit, its_steps, its_attempts)
            check_history(audit, self.history[audit["id"]])
            compare(model.audits[audit["id"]], audit, its_steps, its_attempts, self.history[audit["id"]])
            self._check_ended(audit)
        running = Counter(step["key"] for step in steps if step["status"] == "running")
        assert all(count == 1 for count in running.values()), "identical steps run at once"
        wake_ups = self.database.rows("SELECT audit_id FROM outbox_message WHERE kind = 'wake_up'")
        assert sorted(wake_ups) == sorted((audit["id"],) for audit in audits)
        assert len(audits) == len(model.audits)

    def _read(self, table: str, columns: str) -> list[Row]:
        names = columns.split(", ")
        rows = self.database.rows(f"SELECT {columns} FROM {table} ORDER BY rowid")  # noqa: S608 (our own)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _read_events(self, audits: list[Row]) -> None:
        rows = self.database.rows(
            "SELECT rowid, audit_id, sequence, kind FROM event WHERE rowid > ? ORDER BY rowid", self.seen
        )
        for number, audit_id, sequence, kind in rows:
            self.history[audit_id].append(kind)
            assert sequence == len(self.history[audit_id]), "the numbers of events have a gap"
            self.seen = number
        ((count,),) = self.database.rows("SELECT count(*) FROM event")
        assert count == self.seen, "events have gone"
        for audit in audits:
            assert audit["event_count"] == len(self.history[audit["id"]])

    def _check_ended(self, audit: Row) -> None:
        if audit["status"] not in ENDED:
            assert audit["id"] not in self.ended, "an audit that had ended goes on"
            assert audit["finished_at"] is None
            return
        rows = [
            row
            for table, column in (("audit", "id"), ("step", "audit_id"), ("attempt", "audit_id"))
            for row in self.database.rows(f"SELECT * FROM {table} WHERE {column} = ?", audit["id"])  # noqa: S608
        ]
        assert audit["finished_at"] is not None
        assert self.ended.setdefault(audit["id"], rows) == rows, "an audit that had ended has changed"


def check_attempts(audit: Row, steps: list[Row], attempts: list[Row]) -> None:
    """Workers are there if and only if the audit says so, and each holds at most one step."""
    at_work = [attempt["lease_token"] for attempt in attempts if attempt["ended_at"] is None]
    assert bool(at_work) == (audit["status"] in {"running", "cancelling"}), "at work in a state of rest"
    assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    held = [step["lease_token"] for step in steps if step["status"] == "running"]
    assert len(held) == len(set(held)), "a worker holds two steps"
    assert set(held) <= set(at_work), "a step runs under nobody"


def check_steps(steps: list[Row]) -> None:
    """Only what waits for nothing can be taken, and nothing dies for ever."""
    status = {step["id"]: step["status"] for step in steps}
    for step in steps:
        assert step["deaths"] <= MAX_DEATHS
        assert step["deaths"] < MAX_DEATHS or step["status"] == "failed", "one death too many"
        assert (step["finished_at"] is not None) == (step["status"] in STEP_ENDED)
        if step["ready_at"] is None:
            continue
        assert step["status"] == "pending"
        needed = {status[step_id] for step_id in json.loads(step["needs"])}
        assert needed <= (STEP_ENDED if step["kind"] == "analyse" else {"succeeded"}), "ready too early"


def check_goes_on(audit: Row, steps: list[Row], attempts: list[Row]) -> None:
    """Nothing is left behind in an audit that has ended, and no other is stuck."""
    if audit["status"] in ENDED:
        assert all(step["status"] in STEP_ENDED for step in steps)
        return
    can_be_taken = any(step["ready_at"] is not None for step in steps)
    at_work = any(attempt["ended_at"] is None for attempt in attempts)
    assert can_be_taken or at_work, "the audit is stuck"


def check_history(audit: Row, history: list[str]) -> None:
    """The history tells how the audit came to where it is, and ends when the audit does."""
    told = [kind.removeprefix("audit.") for kind in history if kind.startswith("audit.")]
    assert told[0] == "submitted"
    path = ["queued", *told[1:]]
    for before, after in itertools.pairwise(path):
        assert after in AUDIT_MOVES[before], f"{before} → {after}"
    assert path[-1] == audit["status"]
    if audit["status"] in ENDED:
        assert history[-1] == f"audit.{audit['status']}", "something happened after the end"


def compare(
    expected: ModelAudit, audit: Row, steps: list[Row], attempts: list[Row], history: list[str]
) -> None:
    """The database and the model say the same."""
    assert (audit["status"], moment(audit["expires_at"])) == (expected.status, expected.expires_at)
    told = Counter(history)
    assert told == expected.events, f"{told - expected.events} too much, {expected.events - told} missing"
    assert {step["id"] for step in steps} == {step.id for step in expected.steps}
    holder = {attempt["lease_token"]: attempt["id"] for attempt in attempts}
    held = {step["id"]: holder.get(step["lease_token"]) for step in steps if step["status"] == "running"}
    assert held == {at.step.id: at.id for at in expected.attempts if at.step}
    row_of = {step["id"]: step for step in steps}
    for step in expected.steps:
        row = row_of[step.id]
        said = (row["status"], moment(row["ready_at"]), row["progress"], row["artifact"])
        wanted = (step.status, step.ready_at, step.progress, step.artifact)
        assert said == wanted, f"{step.kind}: {said} instead of {wanted}"
        assert (row["deaths"], row["delays"], row["damages"]) == (step.deaths, step.delays, step.damages)
        assert row["source_step_id"] == step.source
    assert [(row["id"], row["ended_at"] is None, moment(row["lease_expires_at"])) for row in attempts] == [
        (at.id, at.is_open, at.lease_expires_at) for at in expected.attempts
    ]
    if audit["status"] == "succeeded":
        assert audit["verdict"] is not None
