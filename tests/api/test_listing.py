"""Lists of audits are complete, in order and stable, and show nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update
from sqlmodel import col
from starlette.testclient import TestClient

from services.api import cursors
from services.api.audits import Place
from shared.database import transaction
from shared.states import AuditStatus, Verdict
from shared.tables import Audit
from tests.support.audits import add_audit

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def pages(client: TestClient, between: Callable[[], object] = lambda: None, **query: Any) -> Iterator[str]:
    """Ids of all pages; `between` happens before each page but the first."""
    cursor: str | None = None
    while True:
        params = {**query, **({"cursor": cursor} if cursor else {})}
        page = client.get("/audits", params=params).json()
        yield from (audit["id"] for audit in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return
        between()


def ids(client: TestClient, **query: Any) -> list[str]:
    return [audit["id"] for audit in client.get("/audits", params=query).json()["items"]]


def test_empty_list_has_no_next_page(client: TestClient) -> None:
    assert client.get("/audits").json() == {"items": [], "next_cursor": None}


def test_pages_hold_every_audit_once_newest_first(client: TestClient, engine: Engine) -> None:
    audits = [add_audit(engine, created_at=NOON + timedelta(seconds=number)) for number in range(7)]
    assert list(pages(client, limit=3)) == audits[::-1]


def test_audits_of_the_same_moment_are_each_listed_once(client: TestClient, engine: Engine) -> None:
    audits = {add_audit(engine, created_at=NOON) for _ in range(7)}
    listed = list(pages(client, limit=2))
    assert (len(listed), set(listed)) == (7, audits)


def test_pages_stay_as_they_are_while_new_audits_arrive(client: TestClient, engine: Engine) -> None:
    audits = [add_audit(engine, created_at=NOON + timedelta(seconds=number)) for number in range(6)]
    assert list(pages(client, lambda: add_audit(engine), limit=2)) == audits[::-1]


def test_last_page_that_is_full_has_no_next_page(client: TestClient, engine: Engine) -> None:
    for _ in range(2):
        add_audit(engine)
    assert client.get("/audits", params={"limit": 2}).json()["next_cursor"] is None


def test_list_can_be_narrowed_to_a_status(client: TestClient, engine: Engine) -> None:
    add_audit(engine)
    running = add_audit(engine, status=AuditStatus.RUNNING)
    assert ids(client, status="running") == [running]


def test_list_can_be_narrowed_to_a_verdict(client: TestClient, engine: Engine) -> None:
    add_audit(engine)
    failed = add_audit(engine, status=AuditStatus.SUCCEEDED)
    with transaction(engine) as session:
        session.execute(update(Audit).where(col(Audit.id) == failed).values(verdict=Verdict.FAIL))
    assert ids(client, verdict="fail") == [failed]


@pytest.mark.parametrize("value", ["support", "a:b", "", "50 % 'quoted' \"twice\"", "équipe"])
def test_list_can_be_narrowed_to_a_label(client: TestClient, engine: Engine, value: str) -> None:
    add_audit(engine)
    add_audit(engine, labels={"team": "another"})
    labelled = add_audit(engine, labels={"team": value, "cost.centre/x": "7"})
    assert ids(client, label=f"team:{value}") == [labelled]
    assert ids(client, label="cost.centre/x:7") == [labelled]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": 0}, "/query/limit"),
        ({"limit": 101}, "/query/limit"),
        ({"status": "lost"}, "/query/status"),
        ({"verdict": "maybe"}, "/query/verdict"),
        ({"label": "team"}, "/query/label"),
        ({"label": "team:a\0b"}, "/query/label"),
        ({"label": 'te"am:a'}, "/query/label"),
        ({"cursor": "%%%"}, "/query/cursor"),
        ({"cursor": "e30"}, "/query/cursor"),
        ({"cursor": "ключ"}, "/query/cursor"),
        ({"cursor": cursors.encode(Place.model_construct(created_at=NOON, id="a\0"))}, "/query/cursor"),
    ],
)
def test_query_that_makes_no_sense_is_refused(
    client: TestClient, query: dict[str, Any], pointer: str
) -> None:
    response = client.get("/audits", params=query)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, pointer)
