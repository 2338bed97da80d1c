"""An audit shows its steps, attempts, place in the queue, and the time it will still take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from services.api.estimates import seconds_left, share_done, total_seconds_left
from shared.leases import claim_audit
from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import Step
from tests.support.audits import add_audit, add_step

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def step(
    kind: StepKind,
    status: StepStatus,
    *,
    began: float = 0.0,
    took: float | None = None,
    progress: float = 0.0,
    source: str | None = None,
) -> Step:
    """A step that began so many seconds ago and, where it has ended, took so many."""
    started_at = None if status is StepStatus.PENDING else NOW - timedelta(seconds=began)
    finished_at = None if took is None or started_at is None else started_at + timedelta(seconds=took)
    return Step(
        audit_id="a",
        position=0,
        kind=kind,
        title=kind,
        key="k",
        status=status,
        progress=progress,
        source_step_id=source,
        started_at=started_at,
        finished_at=finished_at,
    )


def test_running_step_takes_what_its_progress_promises() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=30, progress=0.25)
    assert seconds_left([running], NOW) == {running.id: pytest.approx(90)}


def test_waiting_step_takes_as_long_as_finished_ones_of_its_kind() -> None:
    done = [
        step(StepKind.TUNE, StepStatus.SUCCEEDED, began=100, took=10),
        step(StepKind.TUNE, StepStatus.SUCCEEDED, began=50, took=30),
        step(StepKind.EDIT, StepStatus.SUCCEEDED, began=200, took=90),
    ]
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert seconds_left([*done, waiting], NOW)[waiting.id] == pytest.approx(20)


def test_reused_steps_say_nothing_of_how_long_one_takes() -> None:
    reused = step(StepKind.TUNE, StepStatus.SUCCEEDED, took=0.0, source="another")
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert seconds_left([reused, waiting], NOW)[waiting.id] is None


def test_waiting_step_takes_as_long_as_the_first_of_its_kind_will() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.5)
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert seconds_left([running, waiting], NOW)[waiting.id] == pytest.approx(20)


def test_step_that_has_just_begun_takes_what_its_kind_took_before() -> None:
    done = step(StepKind.TUNE, StepStatus.SUCCEEDED, began=100, took=40)
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.0)
    assert seconds_left([done, running], NOW)[running.id] == pytest.approx(30)


def test_audit_takes_the_sum_of_its_steps() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.5)
    waiting = step(StepKind.TUNE, StepStatus.PENDING)
    assert total_seconds_left(seconds_left([running, waiting], NOW)) == pytest.approx(30)


def test_audit_with_a_step_that_cannot_be_told_promises_nothing() -> None:
    running = step(StepKind.TUNE, StepStatus.RUNNING, began=10, progress=0.5)
    waiting = step(StepKind.ANALYSE, StepStatus.PENDING)
    assert total_seconds_left(seconds_left([running, waiting], NOW)) is None


def test_share_done_counts_every_step_alike() -> None:
    steps = [
        step(StepKind.PLAN, StepStatus.SUCCEEDED),
        step(StepKind.TUNE, StepStatus.RUNNING, progress=0.5),
        step(StepKind.TUNE, StepStatus.PENDING),
        step(StepKind.ANALYSE, StepStatus.CANCELLED),
    ]
    assert share_done(steps) == pytest.approx(1.5 / 4)


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
    later = add_audit(engine, created_at=NOW + timedelta(seconds=1))
    earlier = add_audit(engine, created_at=NOW)
    urgent = add_audit(engine, created_at=NOW + timedelta(seconds=2), priority=1)
    order = [urgent, earlier, later]
    assert [client.get(f"/audits/{audit_id}").json()["queue_position"] for audit_id in order] == [1, 2, 3]
    lease = claim_audit(engine, "worker-1", 60)
    assert lease is not None
    assert lease.audit_id == urgent


def test_claimed_audit_shows_its_attempt_and_no_place_in_the_queue(
    client: TestClient, engine: Engine
) -> None:
    audit_id = add_audit(engine)
    claim_audit(engine, "worker-1", 60)
    audit = client.get(f"/audits/{audit_id}").json()
    assert (audit["status"], audit["queue_position"]) == ("running", None)
    assert [(attempt["number"], attempt["worker"]) for attempt in audit["attempts"]] == [(1, "worker-1")]


def test_attempts_do_not_give_their_lease_tokens_away(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    lease = claim_audit(engine, "worker-1", 60)
    assert lease is not None
    assert lease.token not in client.get(f"/audits/{audit_id}").text


def test_links_lead_somewhere(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    links = client.get(f"/audits/{audit_id}").json()["links"]
    found = {name: client.get(link).json() for name, link in links.items() if name != "cancel"}
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
    audit_id = add_audit(engine)
    claim_audit(engine, "worker-1", 60)
    assert client.post(f"/audits/{audit_id}/cancel").json()["status"] == "cancelling"


def test_cancel_of_an_ended_audit_is_a_conflict(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    response = client.post(f"/audits/{audit_id}/cancel")
    assert (response.status_code, response.json()["type"]) == (409, "/problems/audit-ended")


def test_cancel_of_an_unknown_audit_is_not_found(client: TestClient) -> None:
    assert client.post(f"/audits/{'0' * 32}/cancel").status_code == 404
