"""Checkpoints are kept for retries for a while, and then they and their files go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.api.housekeeping import tidy
from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStore, ArtifactStoreUnavailable
from shared.retention import CHECKPOINTS_AT_ONCE, forget_old_checkpoints
from shared.settings import Settings
from shared.states import AuditStatus, StepKind, StepStatus
from tests.support.audits import add_audit, add_step, step_of
from tests.support.plans import query_plans

DAYS = 7.0


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "artifacts").as_uri())


def interrupted(engine: Engine, checkpoint: Artifact, *, ended_days_ago: float | None) -> str:
    """The id of a step with a checkpoint, of an audit that ended then, or not yet."""
    ended = None if ended_days_ago is None else datetime.now(UTC) - timedelta(days=ended_days_ago)
    audit_id = add_audit(
        engine, status=AuditStatus.FAILED if ended else AuditStatus.RUNNING, finished_at=ended
    )
    return add_step(
        engine,
        audit_id,
        kind=StepKind.TUNE,
        status=StepStatus.FAILED if ended else StepStatus.PENDING,
        checkpoint=checkpoint.name,
        checkpoint_sha256=checkpoint.sha256,
        checkpoint_progress=0.5,
    )


def is_stored(store: ArtifactStore, artifact: Artifact) -> bool:
    try:
        store.verify(artifact)
    except ArtifactCorrupt:
        return False
    return True


def test_checkpoint_of_an_audit_that_ended_long_ago_is_forgotten(
    engine: Engine, store: ArtifactStore
) -> None:
    checkpoint = store.put(b"old", ".safetensors")
    step = step_of(engine, interrupted(engine, checkpoint, ended_days_ago=8))
    assert forget_old_checkpoints(engine, store, DAYS) == 1
    after = step_of(engine, step.id)
    assert (after.checkpoint, after.checkpoint_sha256, after.checkpoint_progress) == (None, None, None)
    assert not is_stored(store, checkpoint)


@pytest.mark.parametrize("ended_days_ago", [None, 6.0])
def test_checkpoint_that_may_still_be_needed_stays(
    engine: Engine, store: ArtifactStore, ended_days_ago: float | None
) -> None:
    checkpoint = store.put(b"young", ".safetensors")
    step_id = interrupted(engine, checkpoint, ended_days_ago=ended_days_ago)
    assert forget_old_checkpoints(engine, store, DAYS) == 0
    assert step_of(engine, step_id).checkpoint == checkpoint.name
    assert is_stored(store, checkpoint)


def test_file_that_another_step_names_stays_until_that_one_is_old_too(
    engine: Engine, store: ArtifactStore
) -> None:
    checkpoint = store.put(b"shared", ".safetensors")
    old = interrupted(engine, checkpoint, ended_days_ago=8)
    young = interrupted(engine, checkpoint, ended_days_ago=1)
    forget_old_checkpoints(engine, store, DAYS)
    assert (step_of(engine, old).checkpoint, step_of(engine, young).checkpoint) == (None, checkpoint.name)
    assert is_stored(store, checkpoint)
    forget_old_checkpoints(engine, store, 0.5)
    assert not is_stored(store, checkpoint)


def test_file_that_is_gone_already_does_no_harm(engine: Engine, store: ArtifactStore) -> None:
    checkpoint = store.put(b"gone", ".safetensors")
    store.delete(checkpoint)
    step_id = interrupted(engine, checkpoint, ended_days_ago=8)
    forget_old_checkpoints(engine, store, DAYS)
    assert step_of(engine, step_id).checkpoint is None


def test_checkpoint_is_tried_again_when_the_store_is_back(
    engine: Engine, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = store.put(b"old", ".safetensors")
    step_id = interrupted(engine, checkpoint, ended_days_ago=8)

    def away(_: Artifact) -> None:
        raise ArtifactStoreUnavailable(ConnectionError("no answer"))

    with monkeypatch.context() as outage:
        outage.setattr(store, "delete", away)
        tidy(engine, store, Settings(checkpoint_retention_days=DAYS))
    assert step_of(engine, step_id).checkpoint == checkpoint.name
    assert "ConnectionError" in caplog.text

    tidy(engine, store, Settings(checkpoint_retention_days=DAYS))
    assert step_of(engine, step_id).checkpoint is None


def test_round_goes_through_all_that_is_old(engine: Engine, store: ArtifactStore) -> None:
    checkpoint = store.put(b"same", ".safetensors")
    steps = [interrupted(engine, checkpoint, ended_days_ago=8) for _ in range(CHECKPOINTS_AT_ONCE + 1)]
    tidy(engine, store, Settings(checkpoint_retention_days=DAYS))
    assert {step_of(engine, step_id).checkpoint for step_id in steps} == {None}
    assert not is_stored(store, checkpoint)


def test_error_does_not_end_the_thread(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("broken")

    tidy(Broken(), store, Settings())  # type: ignore[arg-type]
    assert "housekeeping goes on after an error" in caplog.messages


def test_steps_without_a_checkpoint_are_not_read(embedded_engine: Engine, store: ArtifactStore) -> None:
    plan = query_plans(embedded_engine, lambda: forget_old_checkpoints(embedded_engine, store, DAYS))
    assert [line for line in plan if line.startswith("SCAN")] == [
        "SCAN step USING INDEX ix_step_checkpoint_key"
    ]
