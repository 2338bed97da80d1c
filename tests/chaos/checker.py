"""Checks the history of a chaos run against the promises: `python -m tests.chaos.checker FILE`.

It reads the file and nothing else. Prints a line per violation (the rule, what was seen, the numbers
of the records that show it), then a summary; the exit status is 1 when there was a violation.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.history import History, read
from tests.chaos.rules import RULES, Violation


def violations(history: History) -> Iterator[tuple[str, Violation]]:
    """Every violation, with the name of its rule."""
    for rule in RULES:
        for violation in rule(history):
            yield rule.__name__, violation


def summary(history: History) -> str:
    """How much there was to check."""
    types = Counter(record["type"] for record in history.records)
    audits = Counter(audit["status"] for audit in history.final_audits.values())
    return (
        f"{len(RULES)} rules, {types['row']} changes of rows, {len(history.transactions)} transactions,"
        f" {audits.total()} audits, {types['result']} results against {types['reference']} references"
    )


def main() -> int:
    """Check the file named on the command line; return the exit status."""
    history = read(Path(sys.argv[1]))
    found = list(violations(history))
    for rule, violation in found:
        sys.stdout.write(f"VIOLATION {rule}: {violation}\n")
    sys.stdout.write(f"{summary(history)}: {len(found)} violations\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
