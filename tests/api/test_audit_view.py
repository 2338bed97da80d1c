"""An audit shows its steps, attempts, place in the queue, and the time it will still take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from services.api.durations import typical_spell_seconds, typical_step_seconds, workers_at_work
from shared.database import reading, transaction
from shared.leases import fenced
from shared.queue_order import queue_position
from shared.recovery import expire_overdue, hand_over, lose
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from shared.tables import Attempt, Audit, Step
from tests.support.audits import add_audit, add_step, add_work, claimed, end_step, go_on
from tests.support.plans import query_plans

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_steps_are_shown_in_order_with_their_progress(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    add_step(engine, audit_id, 1, kind=StepKind.TUNE)
    add_step(
        engine,
        audit_id,
        0,
        kind=StepKind.BASE,
        status=StepStatus.RUNNING,
        progress=0.5,
        progress_note="probe 5 of 10",
        started_at=datetime.now(UTC) - timedelta(seconds=60),
    )
    base, tune = client.get(f"/audits/{audit_id}").json()["steps"]
    assert (base["kind"], base["progress"], base["progress_note"]) == ("base", 0.5, "probe 5 of 10")
    assert base["seconds_left"] == pytest.approx(60, abs=20)
    assert (tune["kind"], tune["seconds_left"]) == ("tune", None)


def test_step_that_stands_for_an_earlier_one_is_marked_as_reused(client: TestClient, engine: Engine) -> None:
    first, second = add_audit(engine), add_audit(engine)
    source = add_step(engine, first, kind=StepKind.BASE, status=StepStatus.SUCCEEDED)
    add_step(engine, second, kind=StepKind.BASE, status=StepStatus.SUCCEEDED, source_step_id=source)
    reused = [client.get(f"/audits/{audit_id}").json()["steps"][0]["reused"] for audit_id in (first, second)]
    assert reused == [False, True]


def test_queue_position_counts_who_is_claimed_before(client: TestClient, engine: Engine) -> None:
    later, _ = add_work(engine, created_at=NOW + timedelta(seconds=1))
    earlier, _ = add_work(engine, created_at=NOW)
    urgent, _ = add_work(engine, created_at=NOW + timedelta(seconds=2), priority=1)
    order = [urgent, earlier, later]
    assert [client.get(f"/audits/{audit_id}").json()["queue_position"] for audit_id in order] == [1, 2, 3]
    assert claimed(engine).audit_id == urgent


def test_claimed_audit_shows_its_attempt_and_no_place_in_the_queue(
    client: TestClient, engine: Engine
) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    audit = client.get(f"/audits/{audit_id}").json()
    assert (audit["status"], audit["queue_position"]) == ("running", None)
    assert [(attempt["number"], attempt["worker"]) for attempt in audit["attempts"]] == [(1, "worker-1")]


def test_attempts_at_once_show_the_step_that_each_is_at(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    steps = [add_step(engine, audit_id, position, kind=StepKind.TUNE) for position in range(3)]
    for worker in ("worker-1", "worker-2"):
        claimed(engine, worker)
    attempts = client.get(f"/audits/{audit_id}").json()["attempts"]
    assert [(attempt["worker"], attempt["step_id"], attempt["step"]) for attempt in attempts] == [
        ("worker-1", steps[0], "tune 0"),
        ("worker-2", steps[1], "tune 1"),
    ]


def test_attempt_that_has_ended_is_at_no_step(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    with fenced(engine, lease) as session:
        hand_over(session, lease, "its worker was stopped")
    (attempt,) = client.get(f"/audits/{audit_id}").json()["attempts"]
    assert (attempt["step_id"], attempt["step"]) == (None, None)
    assert attempt["ended_at"] is not None


def test_attempts_do_not_give_their_lease_tokens_away(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    assert claimed(engine).token not in client.get(f"/audits/{audit_id}").text


def test_phases_tell_when_the_audit_was_in_each_status_and_why(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    lease = claimed(engine)
    with fenced(engine, lease) as session:
        lose(session, lease, max_deaths=3, cause=Cause.INFRASTRUCTURE, error="out of memory")
    claimed(engine)
    phases = client.get(f"/audits/{audit_id}").json()["phase_history"]
    assert [(phase["status"], phase["cause"], phase["error"]) for phase in phases] == [
        ("queued", None, None),
        ("running", None, None),
        ("queued", "infrastructure", "out of memory"),
        ("running", None, None),
    ]
    entered = [phase["entered_at"] for phase in phases]
    assert entered == sorted(entered)
    assert [phase["left_at"] for phase in phases] == [*entered[1:], None]


def test_last_phase_has_the_reason_of_the_end(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine, expires_at=NOW)
    expire_overdue(engine)
    last = client.get(f"/audits/{audit_id}").json()["phase_history"][-1]
    assert (last["status"], last["cause"]) == ("expired", "timeout")
    assert last["error"] == "no worker took it within its time to queue"


def test_deadline_is_that_of_queueing_and_then_that_of_running(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine, expires_at=datetime.now(UTC) + timedelta(hours=1), run_seconds=60)
    queueing = client.get(f"/audits/{audit_id}").json()["deadlines"]
    claimed(engine)
    running = client.get(f"/audits/{audit_id}").json()["deadlines"]
    assert datetime.fromisoformat(running["expires_at"]) < datetime.fromisoformat(queueing["expires_at"])
    assert running["run_seconds"] == 60


def test_audit_that_has_ended_has_no_deadline(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED, expires_at=NOW)
    assert client.get(f"/audits/{audit_id}").json()["deadlines"]["expires_at"] is None


def ended_audit(engine: Engine, *, took: float, **columns: object) -> None:
    """An audit that succeeded, with one attempt and one step of the kind plan that took so long."""
    _, step_id = add_work(engine, **columns)
    lease = claimed(engine)
    end_step(engine, lease, source_step_id=step_id)
    go_on(engine, lease)
    with transaction(engine) as session:
        step, attempt = session.get_one(Step, step_id), session.get_one(Attempt, lease.attempt_id)
        audit = session.get_one(Audit, lease.audit_id)
        assert step.finished_at is not None
        step.started_at = step.finished_at - timedelta(seconds=took)
        attempt.ended_at = attempt.started_at + timedelta(seconds=took)
        audit.status = AuditStatus.SUCCEEDED


def test_waiting_audit_takes_what_earlier_audits_of_its_model_took(
    client: TestClient, engine: Engine
) -> None:
    for seconds in (10.0, 20.0):
        ended_audit(engine, took=seconds)
    ended_audit(engine, took=1000.0, model_reference="local:another")
    audit_id, _ = add_work(engine)
    assert client.get(f"/audits/{audit_id}").json()["seconds_left"] == pytest.approx(15, abs=0.1)


def test_waiting_audit_starts_when_the_workers_have_served_those_ahead(
    client: TestClient, engine: Engine
) -> None:
    ended_audit(engine, took=40.0)
    add_work(engine)
    claimed(engine)
    waiting = [add_work(engine)[0] for _ in range(2)]
    starts = [client.get(f"/audits/{audit_id}").json()["starts_in_seconds"] for audit_id in waiting]
    assert starts == [pytest.approx(40, abs=0.1), pytest.approx(80, abs=0.1)]


def test_nothing_is_promised_where_nothing_is_known(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    audit = client.get(f"/audits/{audit_id}").json()
    assert (audit["seconds_left"], audit["starts_in_seconds"]) == (None, None)


def test_finished_audits_are_looked_up_and_never_read_through(embedded_engine: Engine) -> None:
    def look() -> None:
        with reading(embedded_engine) as session:
            queue_position(session, "a" * 32)
            typical_step_seconds(session, "builtin:almanac", 1)
            typical_spell_seconds(session, 1)
            workers_at_work(session)

    scanned = {line for line in query_plans(embedded_engine, look) if line.startswith("SCAN")}
    assert scanned <= {
        "SCAN submitter",
        "SCAN anon_1",  # at most so many of the latest
        "SCAN attempt USING INDEX ix_attempt_open_audit_id",
        "SCAN attempt USING INDEX ix_attempt_open_lease_expires_at",
    }


def test_links_lead_somewhere(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    links = client.get(f"/audits/{audit_id}").json()["links"]
    found = {name: client.get(link).json() for name, link in links.items() if name not in {"cancel", "retry"}}
    assert [name for name, answer in found.items() if "type" in answer] == ["report"]
    assert found["report"]["type"] == "/problems/report-not-ready"


@pytest.mark.parametrize("audit_id", ["0" * 32, "unknown", "%00", "a%2Fb", "'%20OR%201=1"])
def test_unknown_audit_is_not_found(client: TestClient, audit_id: str) -> None:
    response = client.get(f"/audits/{audit_id}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


def test_cancel_of_a_waiting_audit_ends_it(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    response = client.post(f"/audits/{audit_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "cancelled")


def test_cancel_of_a_running_audit_is_under_way(client: TestClient, engine: Engine) -> None:
    audit_id, _ = add_work(engine)
    claimed(engine)
    assert client.post(f"/audits/{audit_id}/cancel").json()["status"] == "cancelling"


def test_cancel_of_an_ended_audit_is_a_conflict(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    response = client.post(f"/audits/{audit_id}/cancel")
    assert (response.status_code, response.json()["type"]) == (409, "/problems/audit-ended")


def test_cancel_of_an_unknown_audit_is_not_found(client: TestClient) -> None:
    assert client.post(f"/audits/{'0' * 32}/cancel").status_code == 404
