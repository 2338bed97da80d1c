"""The history can be read on from any point, and its stream ends with the audit."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from services.api import events
from shared.audit_moves import move_audit
from shared.database import transaction
from shared.events import append_event
from shared.states import AuditStatus
from tests.support.audits import add_audit

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def audit_id(engine: Engine) -> str:
    """A running audit with four events."""
    audit_id = add_audit(engine, status=AuditStatus.RUNNING)
    for number in range(3):
        happen(engine, audit_id, f"step {number}")
    return audit_id


def happen(engine: Engine, audit_id: str, title: str) -> None:
    with transaction(engine) as session:
        append_event(session, audit_id, "step.started", step=title)


def succeed(engine: Engine, audit_id: str) -> None:
    with transaction(engine) as session:
        move_audit(session, audit_id, AuditStatus.SUCCEEDED)


def streamed(
    client: TestClient, audit_id: str, headers: dict[str, str] | None = None, query: str = ""
) -> Any:
    """Ids and kinds of the events of a whole stream."""
    response = client.get(f"/audits/{audit_id}/events{query}", headers={**STREAM, **(headers or {})})
    assert response.headers["Content-Type"].startswith("text/event-stream")
    fields = [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in response.text.split("\n\n")
        if block.strip()
    ]
    return [(int(event["id"]), event["event"]) for event in fields if event]


def test_events_are_listed_in_order(client: TestClient, audit_id: str) -> None:
    found = client.get(f"/audits/{audit_id}/events").json()
    assert [event["sequence"] for event in found] == [1, 2, 3, 4]
    assert (found[1]["kind"], found[1]["data"]) == ("step.started", {"step": "step 0"})


def test_list_goes_on_after_a_number(client: TestClient, audit_id: str) -> None:
    found = client.get(f"/audits/{audit_id}/events", params={"after": 1, "limit": 2}).json()
    assert [event["sequence"] for event in found] == [2, 3]


def test_list_after_the_last_number_is_empty(client: TestClient, audit_id: str) -> None:
    assert client.get(f"/audits/{audit_id}/events", params={"after": 2**31 - 1}).json() == []


@pytest.mark.parametrize("query", [{"after": -1}, {"after": 2**31}, {"limit": 0}, {"limit": 1001}])
def test_numbers_out_of_range_are_refused(client: TestClient, audit_id: str, query: dict[str, int]) -> None:
    assert client.get(f"/audits/{audit_id}/events", params=query).status_code == 422


@pytest.mark.parametrize("headers", [{}, STREAM])
def test_events_of_an_unknown_audit_are_not_found(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get(f"/audits/{'0' * 32}/events", headers=headers).status_code == 404


def test_stream_of_an_ended_audit_holds_its_history_and_ends(
    client: TestClient, engine: Engine, audit_id: str
) -> None:
    succeed(engine, audit_id)
    assert streamed(client, audit_id) == [
        (1, "audit.submitted"),
        (2, "step.started"),
        (3, "step.started"),
        (4, "step.started"),
        (5, "audit.succeeded"),
    ]


def test_stream_waits_for_what_happens_next_until_the_end(
    client: TestClient, engine: Engine, audit_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.01)
    polled = threading.Event()
    poll = events.poll

    def poll_and_tell(*arguments: Any) -> Any:
        found = poll(*arguments)
        polled.set()
        return found

    monkeypatch.setattr(events, "poll", poll_and_tell)

    def go_on() -> None:
        polled.wait()
        happen(engine, audit_id, "later")
        time.sleep(0.05)  # lets the stream see it on its own, most of the time
        succeed(engine, audit_id)

    thread = threading.Thread(target=go_on)
    thread.start()
    found = streamed(client, audit_id)
    thread.join()
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6]


def test_lost_stream_goes_on_after_the_last_event_that_was_seen(
    client: TestClient, engine: Engine, audit_id: str
) -> None:
    succeed(engine, audit_id)
    assert streamed(client, audit_id, {"Last-Event-ID": "3"}) == [(4, "step.started"), (5, "audit.succeeded")]


def test_last_event_id_counts_more_than_the_query_that_the_stream_began_with(
    client: TestClient, engine: Engine, audit_id: str
) -> None:
    succeed(engine, audit_id)
    assert streamed(client, audit_id, {"Last-Event-ID": "4"}, "?after=1") == [(5, "audit.succeeded")]


@pytest.mark.parametrize("header", ["", "abc", "-1", "1.5", "²"])
def test_last_event_id_that_is_no_number_is_passed_over(header: str) -> None:
    assert events.last_event_id(header) is None


def test_last_event_id_beyond_every_number_is_bounded() -> None:
    assert events.last_event_id("9" * 5_000) == events.MAX_SEQUENCE


def test_client_that_has_seen_the_end_is_told_not_to_come_back(
    client: TestClient, engine: Engine, audit_id: str
) -> None:
    succeed(engine, audit_id)
    response = client.get(f"/audits/{audit_id}/events", headers={**STREAM, "Last-Event-ID": "5"})
    assert (response.status_code, response.content) == (204, b"")


def test_history_longer_than_a_batch_is_streamed_whole(
    client: TestClient, engine: Engine, audit_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BATCH", 2)
    succeed(engine, audit_id)
    assert [number for number, _ in streamed(client, audit_id)] == [1, 2, 3, 4, 5]


def test_other_media_types_are_not_offered(client: TestClient, audit_id: str) -> None:
    response = client.get(f"/audits/{audit_id}/events", headers={"Accept": "image/png"})
    assert (response.status_code, response.json()["type"]) == (406, "/problems/not-acceptable")
