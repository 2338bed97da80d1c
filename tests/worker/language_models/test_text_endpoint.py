"""A language model behind an endpoint, on the loopback interface."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from services.worker.language_models.text_endpoint import EndpointAway, EndpointRefused, TextEndpoint
from tests.support.chat_server import ChatServer, completion, running_chat_server

KEY = "sk-very-secret"
ANSWER = completion("One.\nTwo.")


@pytest.fixture
def served() -> Iterator[ChatServer]:
    with running_chat_server() as server:
        yield server


def endpoint(served: ChatServer, waits: list[float] | None = None, **changes: Any) -> TextEndpoint:
    given = {"key": SecretStr(KEY), "timeout_seconds": 10.0, "retries": 2, **changes}
    return TextEndpoint(served.url, "writer-1", pause=[].append if waits is None else waits.append, **given)


def test_instruction_is_sent_to_the_model_with_the_key(served: ChatServer) -> None:
    served.will_answer(200, ANSWER)
    assert endpoint(served).answer("Say it otherwise.", 100, 7) == "One.\nTwo."
    (request,) = served.requests
    assert request == (
        "/v1/chat/completions",
        f"Bearer {KEY}",
        {
            "model": "writer-1",
            "messages": [{"role": "user", "content": "Say it otherwise."}],
            "max_tokens": 100,
            "seed": 7,
        },
    )


def test_without_a_key_none_is_sent(served: ChatServer) -> None:
    served.will_answer(200, ANSWER)
    endpoint(served, key=None).answer("x", 1, 0)
    assert served.requests[0][1] is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_call_that_fails_for_a_passing_reason_is_made_again(served: ChatServer, status: int) -> None:
    served.will_answer(status)
    served.will_answer(status)
    served.will_answer(200, ANSWER)
    waits: list[float] = []
    assert endpoint(served, waits).answer("x", 1, 0) == "One.\nTwo."
    assert waits == [1.0, 2.0]


def test_endpoint_is_given_the_time_that_it_asks_for_within_reason(served: ChatServer) -> None:
    served.will_answer(429, Retry_After="7")
    served.will_answer(429, Retry_After="100000")
    served.will_answer(200, ANSWER)
    waits: list[float] = []
    endpoint(served, waits).answer("x", 1, 0)
    assert waits == [7.0, 30.0]


def test_endpoint_that_never_answers_is_away(served: ChatServer) -> None:
    served.will_answer(503)
    with pytest.raises(EndpointAway, match=r"no answer in 3 calls \(status 503\)"):
        endpoint(served).answer("x", 1, 0)
    assert len(served.requests) == 3


def test_endpoint_that_cannot_be_reached_is_away(served: ChatServer) -> None:
    served.url = "http://127.0.0.1:9"  # the discard port, where nothing listens
    with pytest.raises(EndpointAway, match=r"no answer in 3 calls \(ConnectError\)"):
        endpoint(served).answer("x", 1, 0)


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_refusal_is_told_by_its_status_and_not_asked_again(served: ChatServer, status: int) -> None:
    served.will_answer(status, f"the key {KEY} is wrong", Location="http://127.0.0.1:9/")
    with pytest.raises(EndpointRefused, match=f"status {status}$"):
        endpoint(served).answer("x", 1, 0)
    assert len(served.requests) == 1


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"choices": [{"text": "One"}]}'])
def test_answer_that_is_no_chat_completion_is_refused(served: ChatServer, body: str) -> None:
    served.will_answer(200, body)
    with pytest.raises(EndpointRefused, match="no chat completion"):
        endpoint(served).answer("x", 1, 0)


@pytest.mark.parametrize("body", [{"choices": []}, {"choices": [{"message": {"content": None}}]}])
def test_model_that_says_nothing_answers_with_nothing(served: ChatServer, body: object) -> None:
    served.will_answer(200, body)
    assert endpoint(served).answer("x", 1, 0) == ""


def test_key_is_nowhere_to_be_read(served: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    served.will_answer(401, f"the key {KEY} is wrong")
    with pytest.raises(EndpointRefused) as refusal:
        endpoint(served).answer("x", 1, 0)
    assert KEY not in caplog.text + str(refusal.value) + repr(endpoint(served))
