"""An accepted audit is on disk; sending it twice makes one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlmodel import SQLModel, col
from starlette.testclient import TestClient

from shared.database import reading
from shared.model_references import InspectedModel, parse_model_reference
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import Audit, EditSet, Event, OutboxMessage, Step
from tests.api.conftest import MakeClient
from tests.support.audits import audit_of

Body = dict[str, Any]


def count(engine: Engine, table: type[SQLModel]) -> int:
    with reading(engine) as session:
        found: int = session.execute(select(func.count()).select_from(table)).scalar_one()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    """For what another thread does: the test's own time limit is the deadline."""
    while not condition():
        time.sleep(0.01)


def test_accepted_audit_is_answered_with_its_location(client: TestClient, request_body: Body) -> None:
    response = client.post("/audits", json=request_body)
    assert response.status_code == 202
    assert response.headers["Location"] == f"/audits/{response.json()['id']}"


def test_accepted_audit_is_queued_with_its_plan_step(client: TestClient, request_body: Body) -> None:
    audit = client.post("/audits", json=request_body).json()
    assert (audit["status"], audit["queue_position"]) == ("queued", 1)
    assert [(step["kind"], step["status"]) for step in audit["steps"]] == [("plan", "pending")]


def test_everything_about_an_audit_is_written_when_the_answer_comes(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    audit_id = client.post("/audits", json=request_body).json()["id"]
    with reading(engine) as session:
        audit = session.get_one(Audit, audit_id)
        step = session.execute(select(Step)).scalar_one()
        event = session.execute(select(Event)).scalar_one()
        message = session.execute(select(OutboxMessage)).scalar_one()
    assert audit.status is AuditStatus.QUEUED
    assert (step.audit_id, step.kind, step.position, step.status) == (
        audit_id,
        StepKind.PLAN,
        0,
        StepStatus.PENDING,
    )
    assert (event.sequence, event.kind, message.audit_id) == (1, "audit.submitted", audit_id)


def test_stored_request_and_edit_set_make_up_the_request_again(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    audit_id = client.post("/audits", json=request_body).json()["id"]
    with reading(engine) as session:
        audit = session.get_one(Audit, audit_id)
        edit_set = session.get_one(EditSet, audit.edit_set_id)
    again = AuditRequest.model_validate({**audit.request, "edits": edit_set.edits})
    assert again == AuditRequest.model_validate(request_body)


def test_workers_are_told_at_once(client: TestClient, request_body: Body, sent: list[str]) -> None:
    audit_id = client.post("/audits", json=request_body).json()["id"]
    wait_for(lambda: sent == [audit_id])


def test_audit_is_accepted_while_the_broker_is_away(
    make_client: MakeClient, engine: Engine, request_body: Body
) -> None:
    def refuse(_kind: str, _audit_id: str) -> None:
        raise ConnectionError("the broker is away")

    client = make_client(send=refuse)
    assert client.post("/audits", json=request_body).status_code == 202
    assert count(engine, Audit) == 1


def test_same_key_and_same_request_make_one_audit(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (client.post("/audits", json=request_body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    assert count(engine, Audit) == 1


def test_order_of_keys_does_not_make_it_another_request(client: TestClient, request_body: Body) -> None:
    headers = {"Idempotency-Key": "once"}
    backwards = dict(reversed(request_body.items()))
    ids = {
        client.post("/audits", json=body, headers=headers).json()["id"] for body in (request_body, backwards)
    }
    assert len(ids) == 1


def test_same_key_with_another_request_is_a_conflict(client: TestClient, request_body: Body) -> None:
    headers = {"Idempotency-Key": "once"}
    client.post("/audits", json=request_body, headers=headers)
    response = client.post("/audits", json={**request_body, "seeds": [1]}, headers=headers)
    assert (response.status_code, response.json()["type"]) == (409, "/problems/idempotency-key-reused")


def test_same_key_sent_at_once_makes_one_audit(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    def post(_: int) -> str:
        response = client.post("/audits", json=request_body, headers={"Idempotency-Key": "once"})
        audit_id: str = response.json()["id"]
        return audit_id

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(post, range(6)))
    assert (len(ids), count(engine, Audit)) == (1, 1)


def test_requests_without_a_key_make_an_audit_each(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    for _ in range(2):
        client.post("/audits", json=request_body)
    assert count(engine, Audit) == 2


def test_same_edits_sent_at_once_are_stored_once(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/audits", json=request_body), range(4)))
    assert [answer.status_code for answer in answers] == [202] * 4
    assert (count(engine, Audit), count(engine, EditSet)) == (4, 1)


def test_revision_found_at_submission_is_kept(make_client: MakeClient, request_body: Body) -> None:
    def inspect(text: str, _: Settings) -> InspectedModel:
        return InspectedModel(parse_model_reference(text), "a" * 40, "gpt2", "GPT2LMHeadModel", 6)

    client = make_client(inspector=inspect)
    body = {**request_body, "model": "hf:org/name"}
    assert client.post("/audits", json=body).json()["model_revision"] == "a" * 40


@pytest.mark.parametrize(
    ("asked", "queue_seconds", "run_seconds"),
    [
        ({}, 300, 600),
        ({"queue_seconds": 40, "run_seconds": 50}, 40, 50),
        ({"run_seconds": 50}, 300, 50),
    ],
)
def test_deadlines_are_the_requests_or_else_the_operators(
    make_client: MakeClient,
    engine: Engine,
    request_body: Body,
    asked: dict[str, int],
    queue_seconds: int,
    run_seconds: int,
) -> None:
    client = make_client(queue_deadline_seconds=300, run_deadline_seconds=600)
    audit = audit_of(engine, client.post("/audits", json={**request_body, "deadlines": asked}).json()["id"])
    assert audit.expires_at is not None
    assert (audit.expires_at - audit.created_at).total_seconds() == pytest.approx(queue_seconds, abs=5)
    assert audit.run_seconds == run_seconds


def test_history_begins_with_what_the_audit_will_do(
    client: TestClient, engine: Engine, request_body: Body
) -> None:
    request_body["editors"] = [{"name": "memit"}, {"name": "ft_l", "paraphrases": [0, 1]}]
    request_body["recipes"][0]["freeze"] = ["none", "edited"]
    request_body["seeds"] = [0, 1]
    client.post("/audits", json=request_body)
    with reading(engine) as session:
        event = session.execute(select(Event)).scalar_one()
    tunings_of_edits, tunings_of_the_base = 3 * 2 * 2, (1 + 2) * 2
    assert event.data["steps"] == {
        "base": 1,
        "prepare": 0,
        "edit": 3,
        "tune": tunings_of_edits + tunings_of_the_base,
        "stress": 0,
        "probe": 0,
        "analyse": 1,
    }


@pytest.mark.parametrize(("at_once", "networks"), [(None, 2), (4, 1)])
def test_history_counts_a_network_for_each_number_of_edits_it_is_taught(
    client: TestClient, engine: Engine, request_body: Body, at_once: int | None, networks: int
) -> None:
    hyperparameters = {"edits_at_once": at_once}
    mend = {"name": "mend", "paraphrases": [0, 1], "hyperparameters": hyperparameters}
    request_body["editors"] = [mend, {"name": "ft_l"}]
    client.post("/audits", json=request_body)
    with reading(engine) as session:
        event = session.execute(select(Event)).scalar_one()
    assert event.data["steps"]["prepare"] == networks


def test_text_in_any_script_is_stored_as_sent(client: TestClient, engine: Engine, request_body: Body) -> None:
    request_body["edits"][0]["target_new"] = "リヨン 🦁 Ľyón"
    client.post("/audits", json=request_body)
    with reading(engine) as session:
        edits = session.execute(select(col(EditSet.edits))).scalar_one()
    assert edits[0]["target_new"] == "リヨン 🦁 Ľyón"


def test_layers_may_be_left_to_causal_tracing(client: TestClient, engine: Engine, request_body: Body) -> None:
    request_body["editors"] = [{"name": "memit", "hyperparameters": {"layers": "auto"}}]
    response = client.post("/audits", json=request_body)
    assert response.status_code == 202
    (editor,) = audit_of(engine, response.json()["id"]).request["editors"]
    assert editor["hyperparameters"] == {"layers": "auto"}


def test_corpus_of_key_statistics_that_cannot_be_read_is_refused_where_it_stands(
    client: TestClient, request_body: Body
) -> None:
    request_body["editors"] = [
        {"name": "ft_l"},
        {"name": "memit", "hyperparameters": {"mom2_corpus": "file:missing.txt"}},
    ]
    response = client.post("/audits", json=request_body)
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {
            "pointer": "/editors/1/hyperparameters/mom2_corpus",
            "detail": "file:missing.txt: no such file under the data roots",
        }
    ]


def test_corpus_of_key_statistics_may_be_the_built_in_one(client: TestClient, request_body: Body) -> None:
    corpus = {"mom2_corpus": "builtin:docstrings"}
    request_body["editors"] = [{"name": "memit", "hyperparameters": corpus}]
    assert client.post("/audits", json=request_body).status_code == 202
