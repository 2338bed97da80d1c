"""The checker finds what was planted in a right history, rule by rule, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import history as histories
from tests.chaos.checker import violations
from tests.chaos.planted import PLANTED, Plant, cancel_late
from tests.chaos.rules import RULES
from tests.chaos.stories import told_story

ROOT = Path(__file__).parents[2]


def test_right_history_has_no_violation() -> None:
    assert list(violations(told_story().history())) == []


@pytest.mark.parametrize(("rule", "plant"), PLANTED, ids=[plant.__name__ for _, plant in PLANTED])
def test_planted_violation_is_found_and_nothing_else(rule: str, plant: Plant) -> None:
    story = told_story()
    plant(story)
    assert {found for found, _ in violations(story.history())} == {rule}


def test_every_rule_has_a_violation_planted() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for rule, _ in PLANTED}


def test_program_prints_each_violation_with_its_records_and_fails(tmp_path: Path) -> None:
    story = told_story()
    cancel_late(story)
    histories.write(story.history(), tmp_path / "history.jsonl")
    checked = check(tmp_path / "history.jsonl")
    assert checked.returncode == 1
    [violation, summary] = checked.stdout.splitlines()
    asked, done = (
        record["number"]
        for record in story.history().records
        if is_move_of(record, "cancelling", "cancelled")
    )
    assert violation == f"VIOLATION cancels_are_in_time: cancelling audit e took 11.0 s [{asked}, {done}]"
    assert summary.endswith("5 audits, 3 results against 2 references: 1 violations")


def test_program_is_content_with_a_right_history(tmp_path: Path) -> None:
    histories.write(told_story().history(), tmp_path / "history.jsonl")
    assert check(tmp_path / "history.jsonl").returncode == 0


def test_history_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    histories.write(told_story().history(), path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:10] + lines[11:]))
    with pytest.raises(ValueError, match="gaps"):
        histories.read(path)


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.chaos.checker", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def is_move_of(record: histories.Record, *statuses: str) -> bool:
    """Whether a record is the move of audit `e` to one of `statuses`."""
    if record["type"] != "row" or record["table"] != "audit" or record["new"]["id"] != "e":
        return False
    return record["new"]["status"] in statuses and record["old"]["status"] != record["new"]["status"]
