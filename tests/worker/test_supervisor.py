"""The supervisor with stand-in children: what becomes of the audit, and that nobody is left behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

from services.worker import child, supervisor
from services.worker.draining import request_drain
from services.worker.supervisor import drain_queue
from shared.audit_moves import request_cancel
from shared.claims import claim
from shared.database import create_database_engine, database_now, transaction
from shared.leases import Heartbeat, Lease
from shared.recovery import reap_expired
from shared.settings import Settings
from shared.states import AuditStatus, Cause, StepStatus
from shared.tables import Attempt
from tests.support.audits import CODE, add_step, add_work, attempt_of, audit_of, step_of

# What every stand-in begins with; `lease()` is the next lease that it is handed.
PROLOGUE = """
import json, os, signal, sys, time
from services.worker.orders import LEFT, read_line
from shared.audit_moves import lock_audit
from shared.database import create_database_engine
from shared.leases import Lease, fenced
from shared.recovery import leave
from shared.states import StepStatus
from shared.step_moves import held_step, move_step, settle

engine = create_database_engine(sys.argv[1])

def next_line():
    return read_line(sys.stdin.buffer.readline())

def end_step_and_leave(lease):
    with fenced(engine, lease) as session:
        lock_audit(session, lease.audit_id)
        move_step(session, held_step(session, lease).id, StepStatus.SUCCEEDED, held_by=lease.token)
        settle(session, lease.audit_id)
        leave(session, lease)

def answer():
    os.write(1, LEFT)
"""
SERVE_FOR_EVER = """
while True:
    end_step_and_leave(next_line())
    answer()
"""
END_ONE_AND_EXIT = "end_step_and_leave(next_line())"
SLEEP = "next_line(); time.sleep(600)"
SELDOM = 3.0  # a child whose lease is renewed just when it has left is taken for lost, and ended
CRASH = "next_line(); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_directory=tmp_path,
        lease_seconds=5,
        heartbeat_seconds=0.1,
        cancel_grace_seconds=0.5,
        handover_seconds=0.5,
        silence_seconds=300,
        retry_wait_seconds=0.1,
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = create_database_engine(settings.resolved_database_url)
    SQLModel.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def nobody_is_left_behind() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert not set(psutil.Process().children()) - before


@pytest.fixture
def work(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Drain the queue with children that run a script."""
    monkeypatch.setattr(supervisor, "code_version", lambda: CODE)
    monkeypatch.setattr(supervisor, "IDLE_SECONDS", 0.0)

    def drain(
        script: str, shutting_down: threading.Event | None = None, heartbeat_seconds: float = 0.1
    ) -> None:
        command = (sys.executable, "-c", PROLOGUE + script, settings.resolved_database_url)
        monkeypatch.setattr(child, "COMMAND", command)
        chosen = settings.model_copy(update={"heartbeat_seconds": heartbeat_seconds})
        drain_queue(engine, chosen, "worker", shutting_down or threading.Event())

    return drain


def once_held(engine: Engine, step_id: str, act: Callable[[], None]) -> threading.Thread:
    """Do `act` as soon as a worker has taken the step."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + 20
        while step_of(engine, step_id).status is not StepStatus.RUNNING and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)  # the child has begun by then
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_child_that_leaves_in_good_order_is_handed_the_next_audit(
    engine: Engine, work: Callable[..., None], tmp_path: Path
) -> None:
    audits = [add_work(engine)[0] for _ in range(3)]
    script = f"open({str(tmp_path / 'started')!r}, 'a').write('x')\n" + SERVE_FOR_EVER
    work(script, heartbeat_seconds=SELDOM)
    assert [audit_of(engine, audit_id).finished_at is not None for audit_id in audits] == [True] * 3
    assert (tmp_path / "started").read_text() == "x"


def test_child_is_kept_for_what_can_be_claimed_a_moment_later(
    engine: Engine, work: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "IDLE_SECONDS", 60.0)
    shutting_down, audits = threading.Event(), [add_work(engine)[0]]

    def ended(audit_id: str) -> bool:
        return audit_of(engine, audit_id).finished_at is not None

    def submit_another_once_it_has_ended() -> None:
        deadline = time.monotonic() + 50
        while not ended(audits[0]) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # the worker has found nothing by then
        audits.append(add_work(engine)[0])
        while not ended(audits[1]) and time.monotonic() < deadline:
            time.sleep(0.02)
        shutting_down.set()

    thread = threading.Thread(target=submit_another_once_it_has_ended)
    thread.start()
    script = f"open({str(tmp_path / 'started')!r}, 'a').write('x')\n" + SERVE_FOR_EVER
    work(script, shutting_down, heartbeat_seconds=SELDOM)
    thread.join()
    assert [ended(audit_id) for audit_id in audits] == [True, True]
    assert (tmp_path / "started").read_text() == "x"


def test_worker_that_is_told_to_stop_does_not_wait_for_more(
    engine: Engine, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "IDLE_SECONDS", 600.0)
    audit_id, shutting_down = add_work(engine)[0], threading.Event()

    def stop_once_it_has_ended() -> None:
        while audit_of(engine, audit_id).finished_at is None:
            time.sleep(0.02)
        time.sleep(0.3)
        shutting_down.set()

    thread = threading.Thread(target=stop_once_it_has_ended)
    thread.start()
    work(SERVE_FOR_EVER, shutting_down)
    thread.join()
    assert audit_of(engine, audit_id).finished_at is not None


def test_child_that_ends_after_its_audit_is_replaced_for_the_next(
    engine: Engine, work: Callable[..., None]
) -> None:
    steps = [add_work(engine)[1] for _ in range(2)]
    work(END_ONE_AND_EXIT)
    assert [step_of(engine, step).status for step in steps] == [StepStatus.SUCCEEDED] * 2
    assert [step_of(engine, step).deaths for step in steps] == [0, 0]


def test_step_that_kills_its_worker_is_tried_again_and_fails_for_good_at_the_limit(
    engine: Engine, settings: Settings, work: Callable[..., None]
) -> None:
    audit_id, step_id = add_work(engine)
    _, other_step = add_work(engine)
    work(
        f"""
lease = next_line()
if lease.audit_id == {audit_id!r}:
    os.kill(os.getpid(), signal.SIGKILL)
end_step_and_leave(lease)
"""
    )
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.FAILED, settings.max_step_attempts)
    assert "SIGKILL" in (step.error or "")
    assert audit_of(engine, audit_id).cause is Cause.INFRASTRUCTURE
    assert step_of(engine, other_step).status is StepStatus.SUCCEEDED


def test_child_that_cannot_start_does_not_go_on_for_ever(engine: Engine, work: Callable[..., None]) -> None:
    audit_id, _ = add_work(engine)
    work("sys.exit(3)")
    audit = audit_of(engine, audit_id)
    assert audit.status is AuditStatus.FAILED
    assert "exited with status 3" in (audit.error or "")


@pytest.mark.parametrize(
    "obedience",
    ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN);"],
    ids=["obeys SIGTERM", "ignores SIGTERM"],
)
def test_cancel_ends_a_running_child_and_the_audit(
    engine: Engine, work: Callable[..., None], obedience: str
) -> None:
    audit_id, step_id = add_work(engine)

    def cancel() -> None:
        with transaction(engine) as session:
            request_cancel(session, audit_id)

    thread = once_held(engine, step_id, cancel)
    work(obedience + SLEEP)
    thread.join()
    assert audit_of(engine, audit_id).status is AuditStatus.CANCELLED
    assert step_of(engine, step_id).status is StepStatus.CANCELLED


def test_child_is_killed_when_somebody_else_has_ended_the_attempt(
    engine: Engine, work: Callable[..., None]
) -> None:
    audit_id, step_id = add_work(engine)
    others: list[Lease] = []

    def take_over() -> None:
        with transaction(engine) as session:
            session.execute(update(Attempt).values(lease_expires_at=database_now(-1.0)))
        reap_expired(engine, 3)
        lease = claim(engine, "somebody else", 60, CODE)
        assert lease is not None
        others.append(lease)

    thread = once_held(engine, step_id, take_over)
    work(SLEEP)
    thread.join()
    assert step_of(engine, step_id).lease_token == others[0].token
    assert audit_of(engine, audit_id).status is AuditStatus.RUNNING
    assert attempt_of(engine, others[0]).ended_at is None


def test_grandchildren_do_not_outlive_the_attempt(
    engine: Engine, work: Callable[..., None], tmp_path: Path
) -> None:
    add_work(engine)
    note = tmp_path / "pid"
    spawn = (
        "import subprocess; p = subprocess.Popen(['sleep', '600'], stdout=2);"
        f"open({str(note)!r}, 'w').write(str(p.pid));"
    )
    work(spawn + END_ONE_AND_EXIT)
    grandchild = int(note.read_text())
    deadline = time.monotonic() + 5
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_step_that_falls_silent_is_ended_as_timed_out(
    engine: Engine, settings: Settings, work: Callable[..., None]
) -> None:
    audit_id, step_id = add_work(engine)
    long_ago = "with fenced(engine, lease) as session:\n"
    long_ago += " from shared.tables import Attempt, Step; from shared.database import database_now\n"
    long_ago += " from sqlalchemy import update\n"
    long_ago += " session.execute(update(Attempt).values(started_at=database_now(-301.0)))\n"
    long_ago += " session.execute(update(Step).values(progressed_at=database_now(-301.0)))\n"
    work("lease = next_line()\n" + long_ago + "time.sleep(600)")
    step = step_of(engine, step_id)
    assert (step.status, step.cause) == (StepStatus.FAILED, Cause.TIMEOUT)
    assert "no progress" in (step.error or "")
    assert audit_of(engine, audit_id).cause is Cause.TIMEOUT


def test_worker_told_to_stop_has_its_child_hand_over_what_it_does(
    engine: Engine, work: Callable[..., None]
) -> None:
    audit_id, step_id = add_work(engine)
    shutting_down = threading.Event()
    thread = once_held(engine, step_id, shutting_down.set)
    obey = """
from shared.recovery import hand_over
lease = next_line()
assert next_line() == "hand_over"
with fenced(engine, lease) as session:
    hand_over(session, lease, "as asked by an order")
answer()
time.sleep(600)
"""
    work(obey, shutting_down)
    thread.join()
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.PENDING, 0)


def test_worker_told_to_stop_ends_a_child_that_does_not_hand_over_and_counts_no_death(
    engine: Engine, work: Callable[..., None]
) -> None:
    audit_id, step_id = add_work(engine)
    shutting_down = threading.Event()
    thread = once_held(engine, step_id, shutting_down.set)
    work("signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP, shutting_down)
    thread.join()
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.PENDING, 0)


def test_draining_worker_has_its_child_finish_the_step_and_takes_nothing_more(
    engine: Engine, settings: Settings, work: Callable[..., None]
) -> None:
    audit_id, step_id = add_work(engine)
    second_step = add_step(engine, audit_id, 1)
    _, later_step = add_work(engine)
    thread = once_held(engine, step_id, lambda: request_drain(settings))
    work("lease = next_line(); assert next_line() == 'finish'; end_step_and_leave(lease); answer()")
    thread.join()
    assert step_of(engine, step_id).status is StepStatus.SUCCEEDED
    assert {step_of(engine, step).status for step in (second_step, later_step)} == {StepStatus.PENDING}
    work(CRASH)
    assert step_of(engine, later_step).deaths == 0


def test_child_is_paused_while_the_lease_cannot_be_renewed_and_goes_on_afterwards(
    engine: Engine, settings: Settings, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, step_id = add_work(engine)
    renewals: list[Lease] = []
    renew = supervisor.renew

    def away_for_a_while(engine: Engine, lease: Lease) -> Heartbeat:
        renewals.append(lease)
        if len(renewals) < 10:
            raise OperationalError("UPDATE attempt", {}, Exception("the connection is gone"))
        return renew(engine, lease)

    monkeypatch.setattr(supervisor, "renew", away_for_a_while)
    object.__setattr__(settings, "lease_seconds", 0.5)
    work("""
lease = next_line()
assert (next_line(), next_line()) == ("pause", "resume")
end_step_and_leave(lease)
answer()
""")
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.SUCCEEDED, 0)


def test_worker_that_cannot_start_a_child_hands_over_what_it_claimed(
    engine: Engine, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, step_id = add_work(engine)
    started: list[bool] = []

    class Unstartable(child.Child):
        def __init__(self) -> None:
            started.append(len(started) > 0)
            if not started[-1]:
                raise OSError(12, "Cannot allocate memory")
            super().__init__()

    monkeypatch.setattr(supervisor, "Child", Unstartable)
    work(SERVE_FOR_EVER)
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.SUCCEEDED, 0)


def test_child_that_died_between_two_audits_is_replaced(engine: Engine, work: Callable[..., None]) -> None:
    steps = [add_work(engine)[1] for _ in range(3)]
    work("end_step_and_leave(next_line()); answer(); os.close(1); os.kill(os.getpid(), signal.SIGKILL)")
    assert [step_of(engine, step).status for step in steps] == [StepStatus.SUCCEEDED] * 3


def test_silence_of_an_outage_is_not_held_against_the_child(
    engine: Engine, settings: Settings, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, step_id = add_work(engine)
    renewals: list[int] = []
    renew = supervisor.renew

    def away_at_first(engine: Engine, lease: Lease) -> Heartbeat:
        renewals.append(1)
        if len(renewals) == 1:
            raise OperationalError("UPDATE attempt", {}, Exception("the connection is gone"))
        return Heartbeat(renew(engine, lease).status, silent_seconds=10 * settings.silence_seconds)

    monkeypatch.setattr(supervisor, "renew", away_at_first)
    work("lease = next_line(); time.sleep(0.8); end_step_and_leave(lease); answer()")
    assert len(renewals) > 2
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.SUCCEEDED, 0)


def test_child_that_was_ended_can_be_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", "import sys; sys.exit(3)"))
    process = child.Child()
    assert [process.end(grace_seconds=30), process.end()] == [3, 3]


def test_supervisor_is_stopped_although_the_database_is_away(
    engine: Engine, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew(*_: object) -> Heartbeat:
        raise OperationalError("UPDATE attempt", {}, Exception("the connection is gone"))

    monkeypatch.setattr(supervisor, "renew", renew)
    audit_id, step_id = add_work(engine)
    shutting_down = threading.Event()
    thread = once_held(engine, step_id, shutting_down.set)
    work(SLEEP, shutting_down)
    thread.join()
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED


def test_worker_that_is_stopping_claims_nothing(engine: Engine, work: Callable[..., None]) -> None:
    _, step_id = add_work(engine)
    shutting_down = threading.Event()
    shutting_down.set()
    work(CRASH, shutting_down)
    step = step_of(engine, step_id)
    assert (step.status, step.deaths) == (StepStatus.PENDING, 0)
