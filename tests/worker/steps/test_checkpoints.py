"""Checkpoints are kept one per step, found by what they are of, and not given up while a store is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.worker.steps.checkpoints import LEAST_WORK_PER_SAVING, CheckpointKeeper
from services.worker.steps.context import AuditContext
from shared.artifacts import ArtifactStoreUnavailable
from shared.tables import Step
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import claimed, events_of


class Clock:
    """Tells the time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def context(tmp_path: Path) -> AuditContext:
    return claimed(tmp_path, parity_request(), checkpoint_seconds=60)


def held(context: AuditContext) -> Step:
    return context.steps()[0]  # any step that is held will do


def saved(context: AuditContext, directory: Path, content: bytes, share: float) -> Path:
    """Store a checkpoint of the step at hand; the file in the store."""
    path = directory / "saved"
    path.write_bytes(content)
    CheckpointKeeper(context, held(context)).store(path, share)
    name = held(context).checkpoint
    assert name is not None
    return context.settings.data_directory / "artifacts" / name


def test_last_checkpoint_is_found_and_the_one_before_it_is_gone(
    context: AuditContext, tmp_path: Path
) -> None:
    first = saved(context, tmp_path, b"first", 0.2)
    second = saved(context, tmp_path, b"second", 0.4)
    found = CheckpointKeeper(context, held(context)).find(tmp_path)
    assert found is not None
    assert found.read_bytes() == b"second"
    assert (first.exists(), second.exists()) == (False, True)
    assert held(context).checkpoint_progress == 0.4


def test_damaged_checkpoint_is_ignored_and_told(context: AuditContext, tmp_path: Path) -> None:
    saved(context, tmp_path, b"whole", 0.2).write_bytes(b"hole")
    assert CheckpointKeeper(context, held(context)).find(tmp_path) is None
    assert events_of(context)[-1] == "step.checkpoint_ignored"


def test_checkpoint_in_a_store_that_is_away_is_not_given_up(
    context: AuditContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise ArtifactStoreUnavailable(OSError("the share is gone"))

    saved(context, tmp_path, b"hours of work", 0.9)
    with monkeypatch.context() as outage:
        outage.setattr(type(context.store), "get_file", away)
        with pytest.raises(ArtifactStoreUnavailable):
            CheckpointKeeper(context, held(context)).find(tmp_path)
    assert CheckpointKeeper(context, held(context)).find(tmp_path) is not None


def test_store_that_is_away_costs_only_the_saving(
    context: AuditContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise ArtifactStoreUnavailable(OSError("the share is gone"))

    saved(context, tmp_path, b"earlier", 0.3)
    monkeypatch.setattr(type(context.store), "put_file", away)
    saved(context, tmp_path, b"later", 0.6)
    assert held(context).checkpoint_progress == 0.3


def test_slow_saving_makes_the_next_one_wait_longer(
    context: AuditContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, slow_seconds = Clock(), 30.0
    keeper = CheckpointKeeper(context, held(context), clock)
    put_file = context.store.put_file

    def put_slowly(path: Path, suffix: str) -> Any:
        clock.now += slow_seconds
        return put_file(path, suffix)

    monkeypatch.setattr(context.store, "put_file", put_slowly)
    assert not keeper.due()
    clock.now = 60.0
    assert keeper.due()
    path = tmp_path / "saved"
    path.write_bytes(b"weights")
    keeper.store(path, 0.5)
    began = clock.now
    clock.now = began + LEAST_WORK_PER_SAVING * slow_seconds - 1
    assert not keeper.due()
    clock.now += 1
    assert keeper.due()
