"""An audit that has ended is done again as a new one of the same request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlmodel import col
from starlette.testclient import TestClient

from shared.database import reading, transaction
from shared.model_references import InspectedModel, ModelNotUsable, parse_model_reference
from shared.settings import Settings
from shared.states import AuditStatus
from shared.tables import Audit, Event
from tests.api.conftest import MakeClient
from tests.support.audits import audit_of

Body = dict[str, Any]
ENDED = [status for status in AuditStatus if status.is_terminal]


def end(engine: Engine, audit_id: str, status: AuditStatus = AuditStatus.FAILED) -> str:
    with transaction(engine) as session:
        session.execute(update(Audit).where(col(Audit.id) == audit_id).values(status=status))
    return audit_id


def audits(engine: Engine) -> int:
    with reading(engine) as session:
        count: int = session.execute(select(func.count()).select_from(Audit)).scalar_one()
    return count


@pytest.fixture
def ended(submit: Callable[..., str], engine: Engine) -> str:
    """The id of an audit that has ended."""
    return end(engine, submit(labels={"team": "editors"}, priority=3, deadlines={"run_seconds": 60}))


@pytest.mark.parametrize("status", ENDED)
def test_audit_that_has_ended_is_done_again_as_a_new_one(
    client: TestClient, engine: Engine, ended: str, status: AuditStatus
) -> None:
    end(engine, ended, status)
    response = client.post(f"/audits/{ended}/retry")
    assert response.status_code == 202, response.text
    retry = response.json()
    assert response.headers["Location"] == f"/audits/{retry['id']}"
    assert (retry["status"], retry["retry_of"], retry["from_scratch"]) == ("queued", ended, False)
    assert retry["id"] != ended


def test_earlier_audit_stays_as_it_was(client: TestClient, engine: Engine, ended: str) -> None:
    before = client.get(f"/audits/{ended}").json()
    client.post(f"/audits/{ended}/retry")
    assert client.get(f"/audits/{ended}").json() == before


def test_new_audit_has_the_same_request_and_edits(client: TestClient, engine: Engine, ended: str) -> None:
    again = audit_of(engine, client.post(f"/audits/{ended}/retry").json()["id"])
    earlier = audit_of(engine, ended)
    for column in ("request", "edit_set_id", "labels", "priority", "run_seconds", "model_reference"):
        assert getattr(again, column) == getattr(earlier, column)


def test_retry_is_told_in_the_history(client: TestClient, engine: Engine, ended: str) -> None:
    again = client.post(f"/audits/{ended}/retry").json()["id"]
    with reading(engine) as session:
        event = session.execute(select(Event).where(col(Event.audit_id) == again)).scalar_one()
    assert (event.kind, event.data["retry_of"]) == ("audit.submitted", ended)


@pytest.mark.parametrize(
    ("body", "from_scratch"), [({}, False), ({"from": "checkpoint"}, False), ({"from": "scratch"}, True)]
)
def test_body_says_what_is_taken_over(
    client: TestClient, engine: Engine, ended: str, body: Body, from_scratch: bool
) -> None:
    again = client.post(f"/audits/{ended}/retry", json=body).json()
    assert again["from_scratch"] is from_scratch
    assert audit_of(engine, again["id"]).from_scratch is from_scratch


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"from": "nothing"}, "/from"), ({"start": "scratch"}, "/start"), ([], "")],
)
def test_body_that_says_something_else_is_refused(
    client: TestClient, engine: Engine, ended: str, body: object, pointer: str
) -> None:
    response = client.post(f"/audits/{ended}/retry", json=body)
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-request")
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert audits(engine) == 1


def test_body_that_is_not_declared_as_json_is_refused(client: TestClient, ended: str) -> None:
    response = client.post(f"/audits/{ended}/retry", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_audit_that_has_not_ended_is_not_retried(
    client: TestClient, engine: Engine, submit: Callable[..., str]
) -> None:
    audit_id = submit()
    for status in (AuditStatus.QUEUED, AuditStatus.RUNNING, AuditStatus.CANCELLING):
        end(engine, audit_id, status)
        response = client.post(f"/audits/{audit_id}/retry")
        assert (response.status_code, response.json()["type"]) == (409, "/problems/audit-not-ended")
    assert audits(engine) == 1


def test_same_key_makes_one_retry(client: TestClient, engine: Engine, ended: str) -> None:
    headers = {"Idempotency-Key": "once"}
    ids = {client.post(f"/audits/{ended}/retry", headers=headers).json()["id"] for _ in range(2)}
    assert (len(ids), audits(engine)) == (1, 2)


def test_same_key_for_another_retry_is_a_conflict(client: TestClient, ended: str) -> None:
    headers = {"Idempotency-Key": "once"}
    client.post(f"/audits/{ended}/retry", headers=headers)
    response = client.post(f"/audits/{ended}/retry", headers=headers, json={"from": "scratch"})
    assert (response.status_code, response.json()["type"]) == (409, "/problems/idempotency-key-reused")


def test_key_of_a_submission_is_not_one_of_its_retry(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    headers = {"Idempotency-Key": "once"}
    audit_id = client.post("/audits", json=request_body, headers=headers).json()["id"]
    end(engine, audit_id)
    assert client.post(f"/audits/{audit_id}/retry", headers=headers).status_code == 409


def test_retry_can_be_retried(client: TestClient, engine: Engine, ended: str) -> None:
    second = end(engine, client.post(f"/audits/{ended}/retry").json()["id"])
    assert client.post(f"/audits/{second}/retry").json()["retry_of"] == second


def test_hub_model_keeps_the_commit_that_was_found_at_first(
    make_client: MakeClient, engine: Engine, request_body: Body
) -> None:
    inspected: list[str] = []

    def inspect(text: str, _: Settings) -> InspectedModel:
        inspected.append(text)
        reference = parse_model_reference(text)
        return InspectedModel(reference, "a" * 40 if len(inspected) == 1 else text[-40:], "gpt2", "x", 6)

    client = make_client(inspector=inspect)
    first = client.post("/audits", json={**request_body, "model": "hf:org/name@main"}).json()["id"]
    again = client.post(f"/audits/{end(engine, first)}/retry").json()
    assert inspected == ["hf:org/name@main", f"hf:org/name@{'a' * 40}"]
    assert (again["model"], again["model_revision"]) == ("hf:org/name@main", "a" * 40)


def test_model_that_is_gone_is_told(make_client: MakeClient, engine: Engine, request_body: Body) -> None:
    def refuse(_text: str, _settings: Settings) -> InspectedModel:
        raise ModelNotUsable("it is gone")

    audit_id = make_client().post("/audits", json=request_body).json()["id"]
    end(engine, audit_id)
    response = make_client(inspector=refuse).post(f"/audits/{audit_id}/retry")
    assert (response.status_code, response.json()["type"]) == (422, "/problems/model-unusable")


def test_request_that_this_version_does_not_take_any_more_is_told(
    client: TestClient, engine: Engine, ended: str
) -> None:
    with transaction(engine) as session:
        audit = session.get_one(Audit, ended)
        audit.request = {**audit.request, "colour": "red"}
    response = client.post(f"/audits/{ended}/retry")
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-request")
    assert [error["pointer"] for error in response.json()["errors"]] == ["/colour"]


def test_unknown_audit_is_not_retried(client: TestClient) -> None:
    assert client.post(f"/audits/{'0' * 32}/retry").status_code == 404
