"""What was computed stays computed, and nobody computes what another is computing."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.history import History, Row
from tests.chaos.rules.violation import Violation

# A plan and a report belong to one audit.
SHARED_KINDS = frozenset({"base", "prepare", "edit", "tune", "stress", "probe"})


def nothing_is_computed_twice(history: History) -> Iterator[Violation]:
    """A step whose like had succeeded when it began stands for that one, unless its artifact was damaged.

    A retry from scratch asks for everything to be computed anew.
    """
    began: dict[str, int] = {}
    succeeded: dict[str, Row] = {}  # key → the latest success
    written: dict[str, int] = {}  # artifact → when a step last published it
    for row in history.changes("step"):
        if row.new is None:
            continue
        if row.became("running"):
            began[row.new["id"]] = row.number
        if not row.became("succeeded") or row.new["kind"] not in SHARED_KINDS:
            continue
        own = row.new["source_step_id"] == row.new["id"]
        earlier = succeeded.get(row.new["key"])
        if own and earlier and earlier.new and not _from_scratch(history, row.new["audit_id"]):
            artifact = earlier.new["artifact"]
            known = earlier.number < began.get(row.new["id"], row.number)
            if known and not _damaged(history, artifact, written.get(artifact, 0), row.number):
                what = f"step {row.new['title']!r} of audit {row.new['audit_id']} was computed again"
                yield Violation(what, (earlier.number, row.number))
        succeeded[row.new["key"]] = row
        if own and row.new["artifact"]:
            written[row.new["artifact"]] = row.number


def succeeded_steps_stay(history: History) -> Iterator[Violation]:
    """A step that succeeded is taken up again only when its artifact was damaged since."""
    written: dict[str, int] = {}
    for row in history.changes("step"):
        if row.before == "succeeded" and row.became("pending") and row.old:
            artifact = row.old["artifact"]
            if not _damaged(history, artifact, written.get(artifact, 0), row.number):
                what = f"step {row.old['title']!r} of audit {row.old['audit_id']} lost its success"
                yield Violation(what, (row.number,))
        if row.became("succeeded") and row.new and row.new["source_step_id"] == row.new["id"]:
            written[row.new["artifact"]] = row.number


def one_runner_per_step(history: History) -> Iterator[Violation]:
    """No two steps of one key run at once, no step by two attempts, no attempt two steps."""
    by_key: dict[str, Row] = {}
    by_token: dict[str, Row] = {}
    for row in history.changes("step"):
        if row.old and row.old["status"] == "running":
            before = row.old
            if row.new and row.new["status"] == "running":
                if row.new["lease_token"] != before["lease_token"]:
                    yield Violation(f"step {before['title']!r} was taken from its attempt", (row.number,))
                continue
            by_key.pop(before["key"], None)
            by_token.pop(before["lease_token"], None)
        if row.new and row.new["status"] == "running":
            for held in (by_key.get(row.new["key"]), by_token.get(row.new["lease_token"])):
                if held is not None:
                    what = f"step {row.new['title']!r} began while {held.values['title']!r} ran"
                    yield Violation(what, (held.number, row.number))
                    break
            by_key[row.new["key"]] = by_token[row.new["lease_token"]] = row


def deaths_are_bounded(history: History) -> Iterator[Violation]:
    """A step that died as often as it may has failed; none dies more often."""
    most = history.header["max_step_attempts"]
    for row in history.changes("step"):
        if row.new and row.new["deaths"] >= most and row.new["status"] in {"pending", "running"}:
            what = f"step {row.new['title']!r} died {row.new['deaths']} times and is {row.new['status']}"
            yield Violation(what, (row.number,))
        elif row.new and row.new["deaths"] > most:
            yield Violation(f"step {row.new['title']!r} died {row.new['deaths']} times", (row.number,))


def _from_scratch(history: History, audit: str) -> bool:
    return bool(history.final_audits[audit]["from_scratch"])


def _damaged(history: History, artifact: str | None, after: int, before: int) -> bool:
    """Whether a fault damaged `artifact` between the two records."""
    return artifact is not None and any(
        fault["target"] == artifact and fault["act"] == "began" and after < fault["number"] < before
        for fault in history.of_type("fault")
    )
