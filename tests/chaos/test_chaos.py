"""A short chaos run of both deployments keeps every promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import history as histories
from tests.chaos.checker import violations
from tests.chaos.history import History
from tests.chaos.run import DEPLOYMENTS

ROOT = Path(__file__).parents[2]
SECONDS, SEED = 28, 161
LONGEST_SECONDS = 1500  # two minutes on an idle machine
KINDS_OF_FAULTS = 5

pytestmark = pytest.mark.timeout(LONGEST_SECONDS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the run left: a directory per deployment."""
    directory = tmp_path_factory.mktemp("chaos")
    asked = ["--seconds", str(SECONDS), "--seed", str(SEED), "--keep", str(directory)]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.chaos.run", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return directory


@pytest.fixture(params=DEPLOYMENTS)
def history(request: pytest.FixtureRequest, kept: Path) -> History:
    """What one deployment recorded."""
    return histories.read(kept / request.param / "history.jsonl")


def test_no_promise_is_broken(history: History) -> None:
    assert list(violations(history)) == []


def test_faults_were_injected_and_audits_succeeded_all_the_same(history: History) -> None:
    kinds = {fault["kind"] for fault in history.of_type("fault") if fault["act"] == "began"}
    assert len(kinds) >= KINDS_OF_FAULTS
    ends = [audit["status"] for audit in history.final_audits.values()]
    assert "succeeded" in ends
    assert set(ends) <= {"succeeded", "cancelled", "expired"}
