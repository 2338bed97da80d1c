"""Health, documentation, and the answers that every path shares."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

import migrations
from services.api.app import create_app
from services.api.examples import AUDIT_REQUESTS, AUDIT_VIEW
from services.api.problem_catalogue import kinds_of_problem
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.views import AuditView
from tests.api.conftest import MakeClient
from tests.support.audits import add_audit


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = Settings(data_directory=tmp_path_factory.mktemp("data"))
    return create_app(settings, send=lambda kind, audit_id: None).openapi()


def test_process_is_alive_without_a_database(make_embedded: MakeClient, tmp_path: Path) -> None:
    client = make_embedded()
    for path in tmp_path.glob("holdfast.db*"):
        path.unlink()
    assert client.get("/livez").json() == {"status": "alive", "checks": {}}


def test_service_over_a_migrated_database_is_ready(embedded: TestClient) -> None:
    response = embedded.get("/readyz")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "artifacts": "ok"}},
    )


def test_service_over_postgresql_is_ready(postgresql_url: str, make_embedded: MakeClient) -> None:
    migrations.upgrade(postgresql_url)
    assert make_embedded(database_url=postgresql_url).get("/readyz").status_code == 200


def test_service_over_a_database_that_is_behind_is_not_ready(
    make_embedded: MakeClient, tmp_path: Path
) -> None:
    client = make_embedded(database_url=f"sqlite:///{tmp_path / 'empty.db'}")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["artifacts"]) == (503, "ok")
    assert response.json()["checks"]["database"] == "not migrated; run 'python -m migrations'"


def test_service_without_its_database_is_not_ready_and_keeps_the_address_to_itself(
    make_embedded: MakeClient,
) -> None:
    client = make_embedded(database_url="postgresql+psycopg://user:secret@127.0.0.1:1/absent")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["database"]) == (503, "unreachable")
    assert "secret" not in response.text


def test_service_without_its_artifacts_is_not_ready(make_embedded: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    client = make_embedded(artifacts_url=(tmp_path / "file" / "artifacts").as_uri())
    response = client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["artifacts"]) == (503, "unreachable")


def test_index_page_loads_nothing_from_elsewhere(embedded: TestClient) -> None:
    page = embedded.get("/").text
    assert "http:" not in page
    assert "https:" not in page


@pytest.mark.parametrize("path", ["/nowhere", "/audits/x/y/z", "/problems/unknown", "/docs"])
def test_path_that_leads_nowhere_is_a_problem(embedded: TestClient, path: str) -> None:
    response = embedded.get(path)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/audits", "GET, POST"), ("DELETE", "/audits/x", "GET"), ("GET", "/audits/x/cancel", "POST")],
)
def test_method_that_is_not_possible_is_a_problem(
    embedded: TestClient, method: str, path: str, allowed: str
) -> None:
    response = embedded.request(method, path)
    assert (response.status_code, response.json()["type"]) == (405, "/problems/method-not-allowed")
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize("name", kinds_of_problem())
def test_type_of_a_problem_leads_to_its_meaning(embedded: TestClient, name: str) -> None:
    kind = embedded.get(f"/problems/{name}").json()
    assert kind["type"] == f"/problems/{name}"
    assert kind["meaning"]


def test_failure_inside_is_answered_as_a_problem_that_tells_nothing(
    make_embedded: MakeClient, request_body: dict[str, Any]
) -> None:
    def fail(_text: str, _settings: Settings) -> Any:
        raise RuntimeError("password=hunter2")

    response = make_embedded(inspector=fail).post("/audits", json=request_body)
    assert (response.status_code, response.json()["type"]) == (500, "/problems/internal-error")
    assert "hunter2" not in response.text
    assert response.json()["instance"] == f"urn:holdfast:request:{response.headers['X-Request-Id']}"


def test_request_while_the_database_is_away_can_be_repeated(
    make_embedded: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_embedded(database_url="postgresql+psycopg://user:secret@127.0.0.1:1/absent")
    response = client.get("/audits")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/service-unavailable")
    assert response.headers["Retry-After"] == "2"
    assert "127.0.0.1" not in response.text
    assert "127.0.0.1" in caplog.text


def test_failure_inside_is_in_the_log_under_the_request_id(
    make_embedded: MakeClient, request_body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_text: str, _settings: Settings) -> Any:
        raise RuntimeError("the reason")

    make_embedded(inspector=fail).post("/audits", json=request_body, headers={"X-Request-Id": "r-1"})
    record = next(record for record in caplog.records if record.name == "holdfast.error")
    assert record.getMessage() == "request r-1 failed"
    assert "the reason" in str(record.exc_info and record.exc_info[1])


def test_request_id_of_the_client_is_kept(embedded: TestClient) -> None:
    response = embedded.get("/livez", headers={"X-Request-Id": "trace-1.2_3"})
    assert response.headers["X-Request-Id"] == "trace-1.2_3"


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "<script>"])
def test_request_id_of_another_form_is_replaced(embedded: TestClient, given: str) -> None:
    response = embedded.get("/livez", headers={"X-Request-Id": given})
    assert len(response.headers["X-Request-Id"]) == 32


def test_access_log_names_the_request_and_keeps_secrets(
    make_embedded: MakeClient, request_body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="holdfast.access")
    client = make_embedded(tokens={"alice": "secret-token"})
    headers = {"Authorization": "Bearer secret-token", "X-Request-Id": "r-1"}
    client.post("/audits?hidden=secret-query", json=request_body, headers=headers)
    line = next(record.getMessage() for record in caplog.records if record.name == "holdfast.access")
    fields = dict(field.split("=", 1) for field in line.split(" "))
    assert fields.pop("milliseconds").isdecimal()
    assert fields == {
        "method": "POST",
        "path": "/audits",
        "status": "202",
        "request_id": "r-1",
        "submitter": "alice",
    }
    assert "secret" not in line


def test_path_cannot_forge_a_line_or_a_field_of_the_log(
    embedded: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="holdfast.access")
    embedded.get("/audits/x%0Amethod=POST status=200")
    line = next(record.getMessage() for record in caplog.records if record.name == "holdfast.access")
    assert (line.count("\n"), len(line.split(" "))) == (0, 6)


@pytest.mark.parametrize("path", ["/", "/audits", "/nowhere", "/openapi.json"])
def test_every_answer_forbids_sniffing_and_scripts(embedded: TestClient, path: str) -> None:
    headers = embedded.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")


def test_document_has_no_dangling_reference(document: dict[str, Any]) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            inner = (references(item) for item in value.values())
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*inner)
        if isinstance(value, list):
            return set().union(*(references(item) for item in value))
        return set()

    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names <= set(document["components"]["schemas"])


def test_document_promises_problems_in_no_other_form(document: dict[str, Any]) -> None:
    content_types = {
        content_type
        for path in document["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if status.startswith("4") or status == "500"
        for content_type in response["content"]
    }
    assert content_types == {"application/problem+json"}


@pytest.mark.parametrize("name", AUDIT_REQUESTS)
def test_example_request_is_valid_by_the_document_and_by_the_code(
    document: dict[str, Any], name: str
) -> None:
    example = AUDIT_REQUESTS[name]["value"]
    schema = {"$ref": "#/components/schemas/AuditRequest", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(example)
    AuditRequest.model_validate(example)


def test_example_answer_is_what_an_audit_looks_like() -> None:
    AuditView.model_validate(AUDIT_VIEW)
    assert set(AUDIT_VIEW) == set(AuditView.model_fields)


def test_answers_fit_the_document(
    embedded: TestClient, embedded_engine: Engine, document: dict[str, Any]
) -> None:
    audit_id = add_audit(embedded_engine)
    for path, schema in (
        (f"/audits/{audit_id}", "AuditView"),
        ("/audits", "AuditPage"),
        (f"/audits/{audit_id}/results", "ResultPage"),
        ("/editors/memit", "EditorView"),
        ("/readyz", "Health"),
        ("/nowhere", "Problem"),
    ):
        reference = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        jsonschema.Draft202012Validator(reference).validate(embedded.get(path).json())


def test_editor_comes_with_the_schema_of_its_hyperparameters(embedded: TestClient) -> None:
    hyperparameters = embedded.get("/editors/memit").json()["hyperparameters"]
    jsonschema.Draft202012Validator.check_schema(hyperparameters)
    assert hyperparameters["properties"]["v_lr"]["default"] == 0.5


def test_editors_are_listed_with_what_each_is(embedded: TestClient) -> None:
    listed = embedded.get("/editors").json()
    assert {"memit", "ft_l"} <= {editor["name"] for editor in listed}
    assert [embedded.get(f"/editors/{editor['name']}").json() for editor in listed] == listed


def test_unknown_editor_is_not_found(embedded: TestClient) -> None:
    response = embedded.get("/editors/grafting")
    assert (response.status_code, response.json()["type"]) == (404, "/problems/editor-not-found")


def test_artifacts_directory_that_vanished_is_made_again(embedded: TestClient, tmp_path: Path) -> None:
    embedded.get("/readyz")
    shutil.rmtree(tmp_path / "artifacts")
    assert embedded.get("/readyz").status_code == 200
