"""Submitters are told apart by their tokens and see what is theirs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from tests.api.conftest import MakeClient
from tests.support.audits import add_audit

TOKENS = {"alice": "alice-token", "bob": "bob-token"}
PROTECTED = [
    ("GET", "/audits"),
    ("POST", "/audits"),
    ("GET", "/audits/x"),
    ("GET", "/audits/x/events"),
    ("GET", "/audits/x/results"),
    ("GET", "/audits/x/report"),
    ("POST", "/audits/x/cancel"),
    ("GET", "/editors"),
    ("GET", "/editors/memit"),
]


@pytest.fixture
def guarded(make_client: MakeClient) -> TestClient:
    return make_client(tokens=TOKENS)


def bearer(submitter: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[submitter]}"}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_nothing_is_answered_without_a_token(make_embedded: MakeClient, method: str, path: str) -> None:
    response = make_embedded(tokens=TOKENS).request(method, path)
    assert (response.status_code, response.json()["type"]) == (401, "/problems/unauthorized")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="holdfast"'


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer alice",
        "Bearer alice-toke",
        "Bearer alice-token2",
        "Basic alice-token",
    ],
)
def test_anything_but_a_token_is_refused(make_embedded: MakeClient, header: str) -> None:
    response = make_embedded(tokens=TOKENS).get("/audits", headers={"Authorization": header})
    assert response.status_code == 401


def test_token_beyond_ascii_is_refused(make_embedded: MakeClient) -> None:
    headers = {b"Authorization": "Bearer ällice".encode("latin-1")}
    assert make_embedded(tokens=TOKENS).get("/audits", headers=headers).status_code == 401


def test_body_of_a_stranger_is_not_looked_at(make_embedded: MakeClient) -> None:
    client = make_embedded(tokens=TOKENS, max_body_bytes=10)
    assert client.post("/audits", content=b"x" * 100).status_code == 401


def test_scheme_is_read_in_any_case(guarded: TestClient) -> None:
    assert guarded.get("/audits", headers={"Authorization": "bearer alice-token"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/openapi.json"])
def test_health_and_documentation_need_no_token(make_embedded: MakeClient, path: str) -> None:
    assert make_embedded(tokens=TOKENS).get(path).status_code == 200


def test_audit_belongs_to_who_submitted_it(guarded: TestClient, request_body: dict[str, Any]) -> None:
    response = guarded.post("/audits", json=request_body, headers=bearer("alice"))
    assert response.json()["submitter"] == "alice"


def test_submitters_see_only_their_own_audits_in_the_list(guarded: TestClient, engine: Engine) -> None:
    mine = add_audit(engine, submitter="alice")
    add_audit(engine, submitter="bob")
    listed = guarded.get("/audits", headers=bearer("alice")).json()["items"]
    assert [audit["id"] for audit in listed] == [mine]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/results"),
        ("GET", "/report"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream, text/csv, text/html"])
def test_audit_of_another_submitter_is_not_found(
    guarded: TestClient, engine: Engine, method: str, path: str, accept: str
) -> None:
    audit_id = add_audit(engine, submitter="alice")
    headers = {**bearer("bob"), "Accept": accept}
    response = guarded.request(method, f"/audits/{audit_id}{path}", headers=headers)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/audit-not-found")


def test_two_submitters_may_use_the_same_idempotency_key(
    guarded: TestClient, request_body: dict[str, Any]
) -> None:
    ids = {
        guarded.post(
            "/audits", json=request_body, headers={**bearer(submitter), "Idempotency-Key": "once"}
        ).json()["id"]
        for submitter in TOKENS
    }
    assert len(ids) == 2


def test_without_configured_tokens_everybody_is_anonymous(
    client: TestClient, request_body: dict[str, Any]
) -> None:
    assert client.post("/audits", json=request_body).json()["submitter"] == "anonymous"
