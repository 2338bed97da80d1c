"""The supervisor against stand-in children: what becomes of the audit, and that nobody is left behind."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

from services.worker import supervisor
from shared.database import create_database_engine, database_now, transaction
from shared.leases import claim_audit, request_cancel
from shared.settings import Settings
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from shared.tables import Attempt, Audit, EditSet, Step

READ_LEASE = "import json, sys, time, signal, os; lease = json.loads(sys.stdin.readline());"
START_STEP = """
from shared.database import create_database_engine
from shared.leases import Lease, fenced
from shared.tables import Step
from sqlmodel import select
with fenced(create_database_engine(sys.argv[1]), Lease(**lease)) as session:
    step = session.exec(select(Step)).one()
    step.status, step.lease_token = "running", lease["token"]
    session.add(step)
"""
END_AUDIT = """
from shared.database import create_database_engine
from shared.leases import Lease, end_attempt, fenced, move_audit
from shared.states import AuditStatus
with fenced(create_database_engine(sys.argv[1]), Lease(**lease)) as session:
    move_audit(session, lease["audit_id"], AuditStatus.SUCCEEDED)
    end_attempt(session, Lease(**lease))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_directory=tmp_path, lease_seconds=5, heartbeat_seconds=0.1, cancel_grace_seconds=0.5)


@pytest.fixture
def engine(settings: Settings) -> Engine:
    engine = create_database_engine(settings.resolved_database_url)
    SQLModel.metadata.create_all(engine)
    return engine


def submit(engine: Engine) -> str:
    with transaction(engine) as session:
        now = session.execute(select(database_now())).scalar_one()
        edits = EditSet(content_hash="0" * 64, edit_count=0, edits=[], created_at=now)
        audit = Audit(
            submitter="someone",
            request_hash="0" * 64,
            request={},
            edit_set_id=edits.id,
            model_reference="builtin:almanac",
            created_at=now,
        )
        step = Step(audit_id=audit.id, position=0, kind=StepKind.PLAN, title="plan", key="0" * 64)
        session.add(edits)
        session.flush()
        session.add(audit)
        session.flush()
        session.add(step)
    return audit.id


def supervise(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Claim the queued audit and supervise a child that runs `script` with the lease read."""
    command = (sys.executable, "-c", READ_LEASE + script, settings.resolved_database_url)
    monkeypatch.setattr(supervisor, "CHILD_COMMAND", command)
    lease = claim_audit(engine, "worker", settings.lease_seconds)
    assert lease is not None
    supervisor.supervise(engine, settings, lease, threading.Event())


def audit_now(engine: Engine, audit_id: str) -> Audit:
    with transaction(engine) as session:
        return session.get_one(Audit, audit_id)


def only_step(engine: Engine) -> Step:
    with transaction(engine) as session:
        return session.execute(select(Step)).scalar_one()


def test_child_that_ends_the_audit_leaves_a_closed_attempt(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_id = submit(engine)
    supervise(engine, settings, monkeypatch, END_AUDIT)
    assert audit_now(engine, audit_id).status is AuditStatus.SUCCEEDED
    with transaction(engine) as session:
        attempt = session.execute(select(Attempt)).scalar_one()
    assert attempt.ended_at is not None
    assert attempt.error is None


def test_audit_of_a_crashed_child_goes_back_to_the_queue_with_the_step_counted_dead(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_id = submit(engine)
    supervise(engine, settings, monkeypatch, START_STEP + "os.kill(os.getpid(), signal.SIGKILL)")
    assert audit_now(engine, audit_id).status is AuditStatus.QUEUED
    step = only_step(engine)
    assert (step.status, step.deaths) == (StepStatus.PENDING, 1)


def test_step_that_kills_its_worker_fails_for_good_at_the_limit(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(engine)
    for _ in range(settings.max_step_attempts):
        supervise(engine, settings, monkeypatch, START_STEP + "os.kill(os.getpid(), signal.SIGKILL)")
    step = only_step(engine)
    assert step.status is StepStatus.FAILED
    assert step.error is not None
    assert "SIGKILL" in step.error


def test_audit_whose_child_never_begins_a_step_fails_and_lets_the_next_one_in(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_id = submit(engine)
    for attempt in range(settings.max_step_attempts):
        assert audit_now(engine, audit_id).status is AuditStatus.QUEUED, attempt
        supervise(engine, settings, monkeypatch, "sys.exit(3)")
    audit = audit_now(engine, audit_id)
    assert (audit.status, audit.cause) == (AuditStatus.FAILED, Cause.INFRASTRUCTURE)
    assert "began no step" in (audit.error or "")
    assert "exited with status 3" in (audit.error or "")
    assert only_step(engine).status is StepStatus.CANCELLED
    assert claim_audit(engine, "worker", settings.lease_seconds) is None


def test_attempts_in_which_a_step_began_do_not_end_the_audit(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_id = submit(engine)
    begun_and_ended = START_STEP.replace(
        'step.status, step.lease_token = "running", lease["token"]',
        "from datetime import UTC, datetime; step.started_at = datetime.now(UTC)",
    )
    for script in ("", begun_and_ended, ""):
        supervise(engine, settings, monkeypatch, script + "\nsys.exit(3)")
    assert audit_now(engine, audit_id).status is AuditStatus.QUEUED


@pytest.mark.parametrize(
    "obedience",
    ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN);"],
    ids=["obeys SIGTERM", "ignores SIGTERM"],
)
def test_cancel_ends_a_running_child_and_the_audit(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, obedience: str
) -> None:
    audit_id = submit(engine)

    def cancel() -> None:
        with transaction(engine) as session:
            request_cancel(session, audit_id)

    timer = threading.Timer(0.5, cancel)
    timer.start()
    supervise(engine, settings, monkeypatch, obedience + "time.sleep(600)")
    timer.join()
    assert audit_now(engine, audit_id).status is AuditStatus.CANCELLED
    assert only_step(engine).status is StepStatus.CANCELLED


def test_child_is_killed_when_the_lease_is_taken_over(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers_of_other_tests = set(psutil.Process().children())
    audit_id = submit(engine)

    def take_over() -> None:
        with transaction(engine) as session:
            session.execute(update(Attempt).values(lease_token="f" * 32))

    timer = threading.Timer(0.5, take_over)
    timer.start()
    supervise(engine, settings, monkeypatch, "time.sleep(600)")
    timer.join()
    assert audit_now(engine, audit_id).status is AuditStatus.RUNNING
    assert not set(psutil.Process().children()) - servers_of_other_tests


def test_grandchildren_do_not_outlive_the_attempt(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    submit(engine)
    note = tmp_path / "pid"
    spawn = (
        "import subprocess; p = subprocess.Popen(['sleep', '600']);"
        f"open({str(note)!r}, 'w').write(str(p.pid));"
    )
    supervise(engine, settings, monkeypatch, spawn + END_AUDIT)
    grandchild = int(note.read_text())
    deadline = time.monotonic() + 5
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_supervisor_being_told_to_stop_gives_the_audit_back_without_counting_a_death(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_id = submit(engine)
    script = READ_LEASE + START_STEP + "time.sleep(600)"
    command = (sys.executable, "-c", script, settings.resolved_database_url)
    monkeypatch.setattr(supervisor, "CHILD_COMMAND", command)
    lease = claim_audit(engine, "worker", settings.lease_seconds)
    assert lease is not None
    shutting_down = threading.Event()
    started = threading.Thread(target=_stop_once_running, args=(engine, shutting_down))
    started.start()
    supervisor.supervise(engine, settings, lease, shutting_down)
    started.join()
    assert audit_now(engine, audit_id).status is AuditStatus.QUEUED
    assert (only_step(engine).status, only_step(engine).deaths) == (StepStatus.PENDING, 0)


def _stop_once_running(engine: Engine, shutting_down: threading.Event) -> None:
    for _ in range(500):
        if only_step(engine).status is StepStatus.RUNNING:
            break
        time.sleep(0.02)
    shutting_down.set()


def test_supervisor_is_stopped_although_the_database_is_away(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew(*_: object) -> AuditStatus:
        raise OperationalError("UPDATE attempt", {}, Exception("the connection is gone"))

    monkeypatch.setattr(supervisor, "renew", renew)
    monkeypatch.setattr(supervisor, "CHILD_COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    audit_id = submit(engine)
    lease = claim_audit(engine, "worker", settings.lease_seconds)
    assert lease is not None
    shutting_down = threading.Event()
    shutting_down.set()
    supervisor.supervise(engine, settings, lease, shutting_down)
    assert audit_now(engine, audit_id).status is AuditStatus.QUEUED
