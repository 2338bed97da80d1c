"""A small history told by hand: what the checker's own tests take as right, and then spoil."""

from __future__ import annotations

from typing import Any

from tests.chaos.history import History, Record

EMPTY: dict[str, dict[str, Any]] = {
    "audit": {
        "submitter": "ada",
        "idempotency_key": None,
        "status": "queued",
        "cause": None,
        "error": None,
        "event_count": 0,
        "from_scratch": False,
        "finished_at": None,
    },
    "attempt": {"ended_at": None, "worker": "w1"},
    "step": {
        "kind": "edit",
        "title": "edit",
        "status": "pending",
        "lease_token": None,
        "deaths": 0,
        "progress": 0.0,
        "checkpoint": None,
        "source_step_id": None,
        "artifact": None,
        "cause": None,
        "error": None,
    },
    "outbox_message": {"sent_at": None},
    "report": {},
    "probe_row": {},
    "event": {},
}


class Story:
    """Tells a history record by record; each change of a row knows what the row was before."""

    def __init__(self) -> None:
        self.records: list[Record] = [
            {
                "type": "header",
                "at": 0.0,
                "deployment": "none",
                "seed": 0,
                "max_step_attempts": 3,
                "cancel_seconds": 10,
                "forced_cancel_seconds": 30,
            }
        ]
        self._at = 100.0
        self._transaction = 0
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def history(self) -> History:
        """What was told so far."""
        return History([{**record, "number": number} for number, record in enumerate(self.records, start=1)])

    @property
    def transaction(self) -> str:
        """The transaction at hand."""
        return str(self._transaction)

    def names(self, table: str, **columns: Any) -> list[str]:
        """The rows of a table that have these values."""
        return [
            name
            for (of, name), row in self._rows.items()
            if of == table and all(row.get(column) == value for column, value in columns.items())
        ]

    def begin(self, seconds: float = 1.0) -> None:
        """The next transaction, `seconds` after the last."""
        self._at += seconds
        self._transaction += 1

    def add(self, type_: str, **particulars: Any) -> None:
        """A record that is no change of a row."""
        self.records.append({"type": type_, "at": self._at, **particulars})

    def put(self, table: str, name: str, **columns: Any) -> None:
        """Insert the row `name`, or change columns of it, in the transaction at hand."""
        old = self._rows.get((table, name))
        base = old if old is not None else {**EMPTY[table], "id": name}
        self._rows[table, name] = {**base, **columns}
        self._row(table, old, self._rows[table, name])

    def remove(self, table: str, name: str) -> None:
        """Delete a row in the transaction at hand."""
        self._row(table, self._rows.pop((table, name)), None)

    def event(self, audit: str, kind: str) -> None:
        """The audit's next event."""
        sequence = self._rows["audit", audit]["event_count"] + 1
        self.put("audit", audit, event_count=sequence)
        self.put("event", f"{audit}/{sequence}", audit_id=audit, sequence=sequence, kind=kind)

    def _row(self, table: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        operation = "insert" if old is None else "delete" if new is None else "update"
        change = {"table": table, "operation": operation, "old": old, "new": new}
        self.add("row", transaction=self.transaction, **change)


def begin_audit(
    story: Story, audit: str, key: str | None = None, status: str = "queued", step_key: str | None = None
) -> None:
    """Write an audit with a plan to make."""
    plan = f"plan of {audit}"
    story.begin()
    story.put("audit", audit, idempotency_key=key or f"key of {audit}", status=status)
    story.put("step", plan, audit_id=audit, kind="plan", title="plan", key=step_key or plan)
    story.event(audit, "audit.submitted")
    story.put("outbox_message", audit, audit_id=audit)


def submit(story: Story, audit: str, told: bool = True) -> None:
    """A submission, from the call to the answer; `told`: the workers are woken for it."""
    call = {"key": f"key of {audit}", "submitter": "ada", "request": "small"}
    story.add("client", act="submit.invoked", **call)
    begin_audit(story, audit)
    story.add("client", act="submit.accepted", audit=audit, **call)
    if told:
        story.begin()
        story.put("outbox_message", audit, sent_at=1.0)


def claim(story: Story, audit: str, number: int, step: str, worker: str = "w1") -> str:
    """A worker takes a step; the token of its attempt."""
    token = f"{audit}.{number}"
    story.begin()
    story.put("attempt", token, audit_id=audit, number=number, lease_token=token, worker=worker)
    story.event(audit, "attempt.started")
    story.put("audit", audit, status="running")
    story.put("step", step, status="running", lease_token=token)
    return token


def take(story: Story, token: str, step: str) -> None:
    """An attempt that goes on takes the next step."""
    story.begin()
    story.put("attempt", token)
    story.put("step", step, status="running", lease_token=token)


def succeed(
    story: Story, token: str, step: str, source: str | None = None, artifact: str | None = None
) -> None:
    """A worker publishes a step: its own work, or `source`'s."""
    story.begin()
    story.put("attempt", token)
    story.put("step", step, status="succeeded", source_step_id=source or step, artifact=artifact)
    if source is None:
        story.put("probe_row", f"score of {step}", step_id=step)


def plan(story: Story, token: str, audit: str) -> None:
    """A worker publishes a plan: an edit and the report."""
    succeed(story, token, f"plan of {audit}", source=f"plan of {audit}")
    story.put("step", f"edit of {audit}", audit_id=audit, key="the edit")
    story.put("step", f"report of {audit}", audit_id=audit, kind="analyse", title="report", key="the report")


def reap(story: Story, token: str, audit: str, step: str) -> None:
    """The lease ran out."""
    story.begin(5)
    story.put("step", step, status="pending", deaths=1)
    story.put("attempt", token, ended_at=1.0)
    story.put("audit", audit, status="queued")


def reuse_all(story: Story, audit: str, computed: bool = False) -> str:
    """A worker does all of an audit but its report, with the edit of `a`; or it computes that again."""
    token = claim(story, audit, 1, f"plan of {audit}", worker="w3")
    plan(story, token, audit)
    take(story, token, f"edit of {audit}")
    succeed(story, token, f"edit of {audit}", source=None if computed else "edit of a", artifact="delta")
    if computed:
        answer = {"step": f"edit of {audit}", "audit": audit, "sha256": "e", "artifact": "delta"}
        story.add("result", of="step", name="the edit", **answer)
    take(story, token, f"report of {audit}")
    return token


def put_report(story: Story, audit: str) -> None:
    """The report's row."""
    story.put("report", f"report of {audit}", audit_id=audit)


def publish(story: Story, token: str, audit: str) -> None:
    """A worker publishes the report, and leaves: the audit ends."""
    step = f"report of {audit}"
    story.begin()
    story.put("attempt", token)
    story.put("step", step, status="succeeded", source_step_id=step, artifact="page.html")
    put_report(story, audit)
    story.begin()
    story.put("attempt", token, ended_at=1.0)
    story.put("audit", audit, status="succeeded", finished_at=1.0)
    story.event(audit, "audit.succeeded")
    story.add("result", of="report", name="small", audit=audit, sha256="r", artifact=None)


def cancel(story: Story, audit: str, after: float = 1.0) -> None:
    """A cancel: at once where nobody works on the audit, else `after` seconds."""
    story.begin()
    if story.names("attempt", audit_id=audit, ended_at=None):
        story.put("audit", audit, status="cancelling")
        story.begin(after)
    for status in ("pending", "running"):
        for step in story.names("step", audit_id=audit, status=status):
            story.put("step", step, status="cancelled")
    story.put("audit", audit, status="cancelled", finished_at=1.0)
    story.event(audit, "audit.cancelled")


def told_story() -> Story:
    """Four audits: one whose worker dies and whose artifact is damaged, one that reuses, two cancelled."""
    story = Story()
    story.add("reference", of="step", name="the edit", sha256="e", artifact="delta")
    story.add("reference", of="report", name="small", sha256="r", artifact=None)

    submit(story, "a")
    token = claim(story, "a", 1, "plan of a")
    plan(story, token, "a")
    take(story, token, "edit of a")
    story.add("fault", kind="kill_worker", fault=1, act="began", target=None, workers=["w1"])
    reap(story, token, "a", "edit of a")
    story.add("fault", kind="kill_worker", fault=1, act="healed", target=None, workers=["w1"])
    token = claim(story, "a", 2, "edit of a", worker="w2")
    succeed(story, token, "edit of a", artifact="delta")
    story.add("fault", kind="flip_a_bit", fault=2, act="began", target="delta", workers=[])
    story.begin()
    story.put("attempt", token)
    story.put("step", "edit of a", status="pending", source_step_id=None, artifact=None)
    take(story, token, "edit of a")
    story.remove("probe_row", "score of edit of a")
    succeed(story, token, "edit of a", artifact="delta")
    story.add("result", of="step", name="the edit", step="edit of a", audit="a", sha256="e", artifact="delta")
    take(story, token, "report of a")
    publish(story, token, "a")

    submit(story, "b")
    publish(story, reuse_all(story, "b"), "b")

    submit(story, "c")
    claim(story, "c", 1, "plan of c", worker="w3")
    cancel(story, "c", after=3)

    submit(story, "d")
    cancel(story, "d")
    return story
