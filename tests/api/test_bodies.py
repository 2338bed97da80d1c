"""Bodies are read strictly, and never further than allowed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from services.api.bodies import MAX_DEPTH
from tests.api.conftest import MakeClient

JSON = {"Content-Type": "application/json"}
CHUNK = b" " * 1000

MALFORMED = {
    "empty": b"",
    "cut off": b'{"model": "builtin:almanac"',
    "two documents": b"{}{}",
    "trailing comma": b'{"edits": [],}',
    "not a number": b'{"seeds": [NaN]}',
    "infinity": b'{"seeds": [-Infinity]}',
    "number beyond a float": b'{"seeds": [1e999]}',
    "integer of 5,000 digits": b'{"seeds": [' + b"9" * 5_000 + b"]}",
    "key twice": b'{"model": "a", "model": "b"}',
    "key twice, spelled differently": b'{"model": "a", "mod\\u0065l": "b"}',
    "key twice in an inner object": b'{"edits": [{"prompt": "a", "prompt": "b"}]}',
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": json.dumps({"model": "a"}).encode("utf-16"),
    "nested deeply": b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2),
    "nested beyond the stack": b"[" * 200_000,
    "nested objects beyond the stack": b'{"a":' * 200_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_body_is_refused(embedded: TestClient, body: bytes) -> None:
    response = embedded.post("/audits", content=body, headers=JSON)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed-body")


def test_syntax_error_is_located(embedded: TestClient) -> None:
    response = embedded.post("/audits", content=b'{\n  "model": builtin\n}', headers=JSON)
    assert "line 2, column 12" in response.json()["detail"]


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"3"])
def test_json_that_is_no_object_is_refused(embedded: TestClient, body: bytes) -> None:
    response = embedded.post("/audits", content=body, headers=JSON)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "nonsense",
    ],
)
def test_body_that_is_not_declared_as_json_is_refused(
    embedded: TestClient, request_body: dict[str, Any], content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = embedded.post("/audits", content=json.dumps(request_body), headers=headers)
    assert (response.status_code, response.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_charset_utf_8_may_be_said(embedded: TestClient, request_body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    response = embedded.post("/audits", content=json.dumps(request_body), headers=headers)
    assert response.status_code == 202


def test_body_of_the_largest_size_is_taken(make_embedded: MakeClient, request_body: dict[str, Any]) -> None:
    body = json.dumps(request_body).encode()
    client = make_embedded(max_body_bytes=len(body))
    assert client.post("/audits", content=body, headers=JSON).status_code == 202


def test_body_one_byte_too_large_is_refused(make_embedded: MakeClient, request_body: dict[str, Any]) -> None:
    body = json.dumps(request_body).encode()
    client = make_embedded(max_body_bytes=len(body) - 1)
    response = client.post("/audits", content=body, headers=JSON)
    assert (response.status_code, response.json()["type"]) == (413, "/problems/body-too-large")


def test_body_that_says_it_is_too_large_is_not_read(make_embedded: MakeClient) -> None:
    status, chunks_read = post_chunks(make_embedded(max_body_bytes=10_000), [(b"content-length", b"10001")])
    assert (status, chunks_read) == (413, 0)


def test_body_without_a_length_is_read_no_further_than_allowed(make_embedded: MakeClient) -> None:
    status, chunks_read = post_chunks(make_embedded(max_body_bytes=10_000), [])
    assert (status, chunks_read) == (413, 11)


def post_chunks(client: TestClient, headers: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Post chunks of 1,000 bytes without end; the status, and the chunks that were read before it."""
    chunks_read = 0
    statuses: list[int] = []

    async def receive() -> Message:
        nonlocal chunks_read
        chunks_read += 1
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/audits",
        "raw_path": b"/audits",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), *headers],
        "client": ("test", 1),
        "server": ("test", 80),
    }

    async def call() -> None:
        await client.app(scope, receive, send)

    asyncio.run(call())
    return statuses[0], chunks_read


def test_chunked_body_that_is_small_enough_is_taken(
    embedded: TestClient, request_body: dict[str, Any]
) -> None:
    def chunks() -> Iterator[bytes]:
        for byte in json.dumps(request_body).encode():
            yield bytes([byte])

    assert embedded.post("/audits", content=chunks(), headers=JSON).status_code == 202
