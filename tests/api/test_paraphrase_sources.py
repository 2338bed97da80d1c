"""Where paraphrases come from is checked before an audit is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from services.api.expected_steps import expected_steps
from shared.paraphrases import LEAD_INS
from shared.requests import AuditRequest
from shared.states import StepKind
from tests.api.conftest import MakeClient
from tests.support.audits import audit_of
from tests.support.hub_server import Repository, running_hub
from tests.support.model_files import tiny_gpt2_files, write_files

Body = dict[str, Any]


def choose(body: Body, source: str, *counts: int) -> Body:
    body["editors"] = [
        {"name": "ft_l"},
        {"name": "memit", "paraphrases": counts, "paraphrase_source": source},
    ]
    return body


def refusal(client: TestClient, body: Body) -> tuple[str, str]:
    """The pointer and the detail of the one fault."""
    response = client.post("/audits", json=body)
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    return fault["pointer"], fault["detail"]


def test_edits_need_no_paraphrases_of_their_own_when_others_are_written(
    embedded: TestClient, request_body: Body
) -> None:
    for edit in request_body["edits"]:
        edit["paraphrases"] = []
    assert embedded.post("/audits", json=choose(request_body, "templates", 0, 3)).status_code == 202


def test_templates_give_no_more_than_there_are(embedded: TestClient, request_body: Body) -> None:
    body = choose(request_body, "templates", 1, len(LEAD_INS) + 1)
    pointer, detail = refusal(embedded, body)
    assert pointer == "/editors/1/paraphrases"
    assert detail == f"paraphrases: the templates give {len(LEAD_INS)} at most"


@pytest.mark.parametrize(
    "source", ["", "mine", "model:", "model:builtin:almanac", "https://models.example", "endpoint:x"]
)
def test_source_that_is_none_is_refused(embedded: TestClient, request_body: Body, source: str) -> None:
    pointer, _ = refusal(embedded, choose(request_body, source, 1))
    assert pointer == "/editors/1/paraphrase_source"


def test_endpoint_is_refused_where_the_operator_has_none(embedded: TestClient, request_body: Body) -> None:
    assert refusal(embedded, choose(request_body, "endpoint", 1)) == (
        "/editors/1/paraphrase_source",
        "no endpoint that writes paraphrases is configured here",
    )


def test_endpoint_is_accepted_where_the_operator_has_one(
    make_embedded: MakeClient, request_body: Body
) -> None:
    client = make_embedded(paraphrase_url="http://127.0.0.1:9/v1", paraphrase_model="writer-1")
    assert client.post("/audits", json=choose(request_body, "endpoint", 1)).status_code == 202


def test_model_that_is_not_there_is_refused(
    make_embedded: MakeClient, request_body: Body, tmp_path: Path
) -> None:
    client = make_embedded(model_roots=(tmp_path,))
    assert refusal(client, choose(request_body, "model:local:missing", 1)) == (
        "/editors/1/paraphrase_source",
        "there is no such directory",
    )


def rewriter_files() -> dict[str, bytes]:
    """Files of a sequence-to-sequence model, as far as their names and JSON go."""
    files = tiny_gpt2_files()
    architecture = {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), **architecture}).encode()}


def test_model_may_be_one_that_rewrites(
    make_client: MakeClient, engine: Engine, request_body: Body, tmp_path: Path
) -> None:
    write_files(tmp_path / "rewriter", rewriter_files())
    client = make_client(model_roots=(tmp_path,))
    response = client.post("/audits", json=choose(request_body, "model:local:rewriter", 1))
    assert response.status_code == 202
    chosen = audit_of(engine, response.json()["id"]).request["editors"][1]
    assert chosen["paraphrase_source"] == "model:local:rewriter"


def test_model_of_a_hub_is_pinned_to_its_commit(
    make_client: MakeClient, engine: Engine, request_body: Body
) -> None:
    with running_hub() as hub:
        hub.repositories["org/rewriter"] = Repository()
        commit = hub.repositories["org/rewriter"].push(rewriter_files())
        client = make_client(hub_endpoint=hub.url)
        response = client.post("/audits", json=choose(request_body, "model:hf:org/rewriter@main", 1))
    assert response.status_code == 202
    chosen = audit_of(engine, response.json()["id"]).request["editors"][1]
    assert chosen["paraphrase_source"] == f"model:hf:org/rewriter@{commit}"


@pytest.mark.parametrize(
    ("source", "counts", "preparations"),
    [("own", (0, 1), 0), ("templates", (0,), 0), ("templates", (0, 1, 3), 1)],
)
def test_preparation_is_counted_among_the_steps_to_come(
    request_body: Body, source: str, counts: tuple[int, ...], preparations: int
) -> None:
    request = AuditRequest.model_validate(choose(request_body, source, *counts))
    assert expected_steps(request)[StepKind.PREPARE] == preparations


def test_document_says_where_paraphrases_may_come_from(embedded: TestClient) -> None:
    schemas = embedded.get("/openapi.json").json()["components"]["schemas"]
    described = schemas["EditorChoice"]["properties"]["paraphrase_source"]["description"]
    assert "`templates`" in described
    assert "operator" in described
