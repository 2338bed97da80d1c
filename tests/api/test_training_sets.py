"""Files of records are uploaded once, checked line by line, and named by recipes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.api import training_data
from shared.recipes import Recipe
from shared.training_data import SourceUnavailable, UnusableTrainingData
from tests.api.conftest import MakeClient

RECORDS = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(5)]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()
JSON_LINES = {"Content-Type": "application/jsonl"}


def uploaded(client: TestClient, content: bytes = LINES, **headers: str) -> dict[str, Any]:
    response = client.post("/training-sets", content=content, headers={**JSON_LINES, **headers})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"/training-sets/{found['id']}"
    return found


def refused(client: TestClient, content: bytes, media: str = "application/jsonl") -> list[dict[str, str]]:
    response = client.post("/training-sets", content=content, headers={"Content-Type": media})
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/problems/training-data-unusable"
    errors: list[dict[str, str]] = response.json()["errors"]
    return errors


def with_source(body: dict[str, Any], source: str) -> dict[str, Any]:
    data = {"source": source}
    return {**body, "recipes": [{**body["recipes"][0], "objective": "instructions", "data": data}]}


def test_uploaded_file_is_described_by_what_it_holds(client: TestClient) -> None:
    found = uploaded(client)
    assert found["objective"] == "instructions"
    assert found["shape"] == "prompt + completion"
    assert (found["record_count"], found["byte_count"]) == (5, len(LINES))
    assert client.get(f"/training-sets/{found['id']}").json() == found
    assert client.get("/training-sets").json() == {"items": [found], "next_cursor": None}


def test_same_content_is_one_training_set(client: TestClient) -> None:
    assert uploaded(client) == uploaded(client)
    assert uploaded(client)["id"] != uploaded(client, LINES + b"\n")["id"]


def test_list_goes_on_at_its_cursor(embedded: TestClient) -> None:
    ids = [uploaded(embedded, LINES + b"\n" * count)["id"] for count in range(3)]
    first = embedded.get("/training-sets", params={"limit": 2}).json()
    rest = embedded.get("/training-sets", params={"cursor": first["next_cursor"]}).json()
    assert [found["id"] for found in first["items"] + rest["items"]] == ids[::-1]


@pytest.mark.parametrize(
    ("media", "encoding", "content"),
    [
        ("application/x-ndjson", "identity", LINES),
        ("application/jsonl", "gzip", gzip.compress(LINES)),
        ("application/json", "identity", json.dumps(RECORDS).encode()),
        ("text/csv; charset=utf-8", "identity", b"prompt,completion\na,b\nc,d\n"),
        ("text/plain", "identity", b"one\n\ntwo\n"),
    ],
)
def test_every_format_is_taken(embedded: TestClient, media: str, encoding: str, content: bytes) -> None:
    found = uploaded(embedded, content, **{"Content-Type": media, "Content-Encoding": encoding})
    assert found["record_count"] >= 2


OTHER_FORMATS: list[dict[str, str]] = [
    {"Content-Type": "image/png"},
    {"Content-Type": "jsonl"},  # which e-mail takes for text/plain
    {"Content-Type": "text"},
    {"Content-Encoding": "br"},
    {},
]


@pytest.mark.parametrize("headers", OTHER_FORMATS)
def test_other_formats_are_refused(embedded: TestClient, headers: dict[str, str]) -> None:
    chosen = {**JSON_LINES, **headers} if headers else {}
    response = embedded.post("/training-sets", content=LINES, headers=chosen)
    assert response.status_code == 415
    assert "application/jsonl" in response.json()["detail"]


def test_nobody_unknown_learns_which_formats_are_taken(make_embedded: MakeClient) -> None:
    client = make_embedded(tokens={"one": "first"})
    headers = {"Content-Type": "image/png"}
    assert client.post("/training-sets", content=LINES, headers=headers).status_code == 401


@pytest.mark.parametrize("identifier", ["%00", "0" * 31, "0" * 64, "0" * 31 + "G", "x"])
def test_what_is_no_id_is_not_there(client: TestClient, identifier: str) -> None:
    response = client.get(f"/training-sets/{identifier}")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/training-set-not-found"


def test_of_many_faults_the_first_hundred_are_told(embedded: TestClient) -> None:
    assert len(refused(embedded, b"{\n" * 500)) == 100


def test_copies_of_one_record_are_too_few(embedded: TestClient) -> None:
    (error,) = refused(embedded, b'{"text": "a"}\n' * 3)
    assert "1 distinct" in error["detail"]


def test_every_line_at_fault_is_named(embedded: TestClient) -> None:
    lines = [b'{"prompt": "a", "completion": "b"}', b"{", b'{"prompt": "a"}', b'{"text": "x"}', b"3"]
    errors = refused(embedded, b"\n".join(lines))
    assert [error["detail"].partition(":")[0] for error in errors] == [
        "upload (line 2)",
        "upload (line 3, field completion)",
        "upload (line 4, field prompt)",
        "upload (line 5)",
    ]


def test_entries_of_a_list_are_named_by_pointer(embedded: TestClient) -> None:
    errors = refused(embedded, b'[{"text": "a"}, {"text": 3}, {"text": "b"}]', "application/json")
    assert [error["pointer"] for error in errors] == ["/1"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{", b'{"text": "one"}', b"\xff\xfe"])
def test_file_with_nothing_to_learn_is_refused(embedded: TestClient, content: bytes) -> None:
    assert len(refused(embedded, content)) == 1


def test_file_over_the_limit_is_refused(make_embedded: MakeClient) -> None:
    client = make_embedded(max_body_bytes=10)
    assert client.post("/training-sets", content=LINES, headers=JSON_LINES).status_code == 413


def test_recipe_trains_on_an_uploaded_set(client: TestClient, request_body: dict[str, Any]) -> None:
    found = uploaded(client)
    assert client.post("/audits", json=with_source(request_body, found["source"])).status_code == 202


@pytest.mark.parametrize("source", ["training_set:" + "0" * 32, "training_set:x"])
def test_recipe_with_an_unknown_set_is_refused(
    embedded: TestClient, request_body: dict[str, Any], source: str
) -> None:
    response = embedded.post("/audits", json=with_source(request_body, source))
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/recipes/0/data/source"


def test_set_of_another_objective_is_refused(embedded: TestClient, request_body: dict[str, Any]) -> None:
    found = uploaded(embedded, b"one\n\ntwo", **{"Content-Type": "text/plain"})
    response = embedded.post("/audits", json=with_source(request_body, found["source"]))
    assert response.status_code == 422
    assert "objective 'instructions'" in response.json()["detail"]


def test_damaged_content_is_refused_at_submission(
    embedded: TestClient, request_body: dict[str, Any], tmp_path: Path
) -> None:
    found = uploaded(embedded)
    (damaged,) = (tmp_path / "artifacts").rglob(f"{found['content_hash']}*")
    damaged.write_bytes(b"{}")
    response = embedded.post("/audits", json=with_source(request_body, found["source"]))
    assert response.status_code == 422
    assert "damaged" in response.json()["detail"]


def test_source_that_is_away_is_told_as_such(
    embedded: TestClient, request_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise SourceUnavailable("url:https://data.example/a.jsonl", "was answered with status 503")

    monkeypatch.setattr(training_data, "recipe_corpus", away)
    response = embedded.post("/audits", json=with_source(request_body, "url:https://data.example/a.jsonl"))
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/service-unavailable"
    assert "status 503" in response.json()["detail"]


def test_source_that_several_recipes_read_alike_is_read_once(
    embedded: TestClient, request_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def unusable(recipe: Recipe, *_: object) -> None:
        read.append(recipe.name)
        raise UnusableTrainingData("is empty", str(recipe.data.source))

    monkeypatch.setattr(training_data, "recipe_corpus", unusable)
    (first,) = with_source(request_body, "file:a.jsonl")["recipes"]
    others = [{**first, "name": "second"}, {**first, "name": "third", "data": {"source": "file:b.jsonl"}}]
    response = embedded.post("/audits", json={**request_body, "recipes": [first, *others]})
    assert [error["pointer"] for error in response.json()["errors"]] == [
        f"/recipes/{index}/data/source" for index in range(3)
    ]
    assert read == [first["name"], "third"]


def test_set_of_another_submitter_is_not_there(
    make_embedded: MakeClient, request_body: dict[str, Any]
) -> None:
    client = make_embedded(tokens={"one": "first", "two": "second"})
    theirs = uploaded(client, Authorization="Bearer first")
    mine = {"Authorization": "Bearer second"}
    assert client.get(f"/training-sets/{theirs['id']}", headers=mine).status_code == 404
    assert client.get("/training-sets", headers=mine).json()["items"] == []
    body = with_source(request_body, theirs["source"])
    assert client.post("/audits", json=body, headers=mine).status_code == 422
    assert uploaded(client, Authorization="Bearer second")["id"] != theirs["id"]
    assert client.post("/training-sets", content=LINES, headers=JSON_LINES).status_code == 401


def test_content_is_stored_as_it_was_sent(embedded: TestClient, tmp_path: Path) -> None:
    found = uploaded(embedded, gzip.compress(LINES), **{"Content-Encoding": "gzip"})
    (stored,) = (tmp_path / "artifacts").rglob(f"{found['content_hash']}.jsonl.gz")
    assert gzip.decompress(stored.read_bytes()) == LINES
