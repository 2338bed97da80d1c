"""Whatever happens, in whatever order: no audit is lost, stuck, or changed after its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.shared.state_machine.clock import ClockedDatabase
from tests.shared.state_machine.machine import Jobs
from tests.shared.state_machine.planted import PLANTED

SEARCH = settings(
    max_examples=120,
    stateful_step_count=50,
    derandomize=True,  # the same examples on every run
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
UNTIL_FOUND = settings(SEARCH, max_examples=400, phases=[Phase.generate])


@pytest.fixture(scope="module")
def database() -> Iterator[ClockedDatabase]:
    """One database for all examples; each empties it."""
    database = ClockedDatabase()
    yield database
    database.engine.dispose()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Steps fail by the hundred here, each with a traceback in the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def search(database: ClockedDatabase, how: settings) -> None:
    """Run the machine; any callable that makes one will do, whatever the signature says."""
    run_state_machine_as_test(cast(type[RuleBasedStateMachine], lambda: Jobs(database)), settings=how)


def test_audits_survive_everything(database: ClockedDatabase) -> None:
    search(database, SEARCH)


@pytest.mark.parametrize("planted", PLANTED)
def test_wrong_rule_is_found(
    database: ClockedDatabase, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    for module, name, wrong in PLANTED[planted]:
        monkeypatch.setattr(module, name, wrong)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        search(database, UNTIL_FOUND)
