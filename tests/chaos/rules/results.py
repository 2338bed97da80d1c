"""Whatever came in between, the numbers are those of the uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.history import History, Record
from tests.chaos.rules.violation import Violation
from tests.chaos.rules.work import SHARED_KINDS


def results_are_those_of_the_reference(history: History) -> Iterator[Violation]:
    """Every succeeded step and every report has the digest of the reference; none goes uncompared."""
    reference = {(record["of"], record["name"]): record for record in history.of_type("reference")}
    compared: set[tuple[str, str]] = set()
    for result in history.of_type("result"):
        compared.add((result["of"], result["step"] if result["of"] == "step" else result["audit"]))
        expected = reference.get((result["of"], result["name"]))
        if expected is None:
            what = f"{_named(result)} is compared with nothing: the reference lacks it"
            yield Violation(what, (result["number"],))
        elif (result["sha256"], result["artifact"]) != (expected["sha256"], expected["artifact"]):
            what = f"{_named(result)} differs from the reference"
            yield Violation(what, (expected["number"], result["number"]))
    for step in history.final_steps.values():
        own = step["source_step_id"] == step["id"] and step["kind"] in SHARED_KINDS
        if own and step["status"] == "succeeded" and ("step", step["id"]) not in compared:
            yield Violation(f"step {step['title']!r} succeeded and has no result")
    for audit in history.final_audits.values():
        if audit["status"] == "succeeded" and ("report", audit["id"]) not in compared:
            yield Violation(f"audit {audit['id']} succeeded and has no result")


def _named(result: Record) -> str:
    return f"the {result['of']} {result['name']} of audit {result['audit']}"
