from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest

from services.cli.client import PAGE_SIZE, HoldfastClient
from services.cli.errors import HoldfastError, ServiceUnreachable
from shared.states import AuditStatus
from shared.views import Problem, ProblemField
from tests.cli.views import audit

URL = "http://holdfast.test"


def client_of(handler: Callable[[httpx.Request], httpx.Response], token: str | None = None) -> HoldfastClient:
    """A client that never waits."""
    transport = httpx.MockTransport(handler)
    return HoldfastClient(URL, token, transport=transport, sleep=lambda _seconds: None)


def answering(*answers: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    """Gives the answers in turn."""
    waiting = iter(answers)

    def handler(_request: httpx.Request) -> httpx.Response:
        answer = next(waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


def json_of(view: Any) -> httpx.Response:
    return httpx.Response(200, content=view.model_dump_json())


def test_submit_sends_the_request_as_it_is_and_returns_the_audit() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, content=audit().model_dump_json())

    with client_of(handler) as client:
        assert client.submit({"model": "builtin:almanac"}) == audit()
    assert (seen[0].method, seen[0].url.path) == ("POST", "/audits")
    assert json.loads(seen[0].content) == {"model": "builtin:almanac"}


def test_token_is_sent_as_a_bearer_token() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return json_of(audit())

    with client_of(handler, token="secret") as client:  # noqa: S106
        client.get("a" * 32)
    assert seen == ["Bearer secret"]


def test_repeated_submission_carries_the_same_idempotency_key() -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("connection reset")
        return json_of(audit())

    with client_of(handler) as client:
        client.submit({})
    assert keys[0] == keys[1]


def test_problem_becomes_an_error_with_every_field_at_fault() -> None:
    fields = [ProblemField(pointer="/edits/0/prompt", detail="needs exactly one {}")]
    problem = Problem(
        type="about:blank", title="Invalid request", status=422, detail="1 field", errors=fields
    )
    with (
        client_of(answering(httpx.Response(422, content=problem.model_dump_json()))) as client,
        pytest.raises(HoldfastError) as caught,
    ):
        client.submit({})
    error = caught.value
    assert (error.status, error.title, error.detail, list(error.fields)) == (
        422,
        "Invalid request",
        "1 field",
        fields,
    )


def test_refused_token_says_where_tokens_are_given() -> None:
    problem = Problem(type="about:blank", title="Unauthorized", status=401, detail="no token")
    with (
        client_of(answering(httpx.Response(401, content=problem.model_dump_json()))) as client,
        pytest.raises(HoldfastError) as caught,
    ):
        client.get("a" * 32)
    assert "HOLDFAST_TOKEN" in caught.value.hint


def test_answer_that_is_no_problem_document_is_quoted() -> None:
    with (
        client_of(answering(httpx.Response(404, text="nginx says no"))) as client,
        pytest.raises(HoldfastError, match="answered 404 Not Found: nginx says no"),
    ):
        client.get("a" * 32)


def test_answer_of_something_else_is_not_taken_for_an_audit() -> None:
    with (
        client_of(answering(httpx.Response(200, text="<html>"))) as client,
        pytest.raises(HoldfastError, match="not understood"),
    ):
        client.get("a" * 32)


@pytest.mark.parametrize(
    "first_answer",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), httpx.Response(503), httpx.Response(502)],
)
def test_call_that_did_not_get_through_is_repeated(first_answer: httpx.Response | Exception) -> None:
    with client_of(answering(first_answer, json_of(audit()))) as client:
        assert client.get("a" * 32) == audit()


def test_service_that_never_answers_is_unreachable() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with (
        client_of(refuse) as client,
        pytest.raises(ServiceUnreachable, match=r"No answer from http://holdfast\.test: connection refused"),
    ):
        client.get("a" * 32)


@pytest.mark.parametrize("url", ["localhost:8000", "http://[::1", "ftp://localhost"])
def test_url_that_cannot_be_called_is_reported(url: str) -> None:
    with pytest.raises(ServiceUnreachable), HoldfastClient(url) as client:
        client.get("a" * 32)


def test_following_yields_changes_alone_and_ends_with_the_audit() -> None:
    queued, running = audit(AuditStatus.QUEUED), audit(AuditStatus.RUNNING)
    succeeded = audit(AuditStatus.SUCCEEDED)
    with client_of(answering(*map(json_of, (queued, queued, running, succeeded)))) as client:
        assert list(client.follow("a" * 32)) == [queued, running, succeeded]


def test_following_stops_when_its_check_raises() -> None:
    def check() -> None:
        raise ZeroDivisionError

    with client_of(answering()) as client, pytest.raises(ZeroDivisionError):
        next(client.follow("a" * 32, check=check))


def test_results_are_fetched_page_by_page() -> None:
    cursors: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        cursors.append(request.url.params.get("cursor"))
        rows = [RESULT_ROW] if len(cursors) == 1 else []
        return httpx.Response(200, json={"items": rows, "next_cursor": "more" if rows else None})

    with client_of(handler) as client:
        assert [row.fact_id for row in client.results("a" * 32)] == ["edit-0"]
    assert cursors == [None, "more"]


def test_events_go_on_after_a_full_page() -> None:
    starts: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        starts.append(int(request.url.params["after"]))
        count = PAGE_SIZE if len(starts) == 1 else 1
        return httpx.Response(200, json=list(numbered_events(starts[-1] + 1, count)))

    with client_of(handler) as client:
        assert [event.sequence for event in client.events("a" * 32)] == list(range(1, PAGE_SIZE + 2))
    assert starts == [0, PAGE_SIZE]


def numbered_events(first: int, count: int) -> Iterable[dict[str, Any]]:
    for sequence in range(first, first + count):
        yield {"sequence": sequence, "at": "2026-01-01T00:00:00Z", "kind": "step.started", "data": {}}


RESULT_ROW = {
    "editor": "memit",
    "paraphrases": 0,
    "recipe": "english",
    "stressor": None,
    "freeze": "none",
    "frozen_blocks": "",
    "seed": 0,
    "arm": "edited",
    "tuning_step": 0,
    "fact_id": "edit-0",
    "fact_kind": "edit",
    "probe_kind": "rewrite",
    "probe_index": 0,
    "prompt": "The capital of France is",
    "answer": "Rome",
    "mode": "exact",
    "right": True,
    "log_prob_answer": -0.1,
    "log_prob_alternative": -4.0,
    "predicted_token": " Rome",
}
