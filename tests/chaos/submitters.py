"""Clients of the service that never give up, and write down what they did and what they were told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from shared.states import AuditStatus
from tests.chaos.asks import Ask
from tests.chaos.deployment import TOKENS
from tests.chaos.history import Record

ANSWER_SECONDS = 5.0  # without an answer for so long the call is made again
PAUSE_SECONDS = 0.5  # from a call without an answer to the next
POLL_SECONDS = 2.0  # from one look at an audit to the next
CLIENTS = 24
ACCEPTED = frozenset({"submit.accepted", "retry.accepted"})


class Log:
    """Records of what the run itself did, in order, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records: list[Record] = []

    def add(self, type_: str, **particulars: Any) -> None:
        """Write a record, at this moment."""
        with self._lock:
            self.records.append({"type": type_, "at": time.time(), **particulars})


class Submitters:
    """Carries out asks, each in a thread of its own.

    until: when `time.monotonic()` is past it, nobody asks for more work.
    """

    def __init__(self, url: str, log: Log, until: float) -> None:
        self._url = url
        self._log = log
        self._until = until
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._futures: list[Future[None]] = []
        self._stopped = threading.Event()

    def send(self, ask: Ask) -> None:
        """Begin to carry out an ask."""
        self._futures.append(self._pool.submit(self._carry_out, ask, True))
        if ask.twice:
            self._futures.append(self._pool.submit(self._carry_out, ask, False))

    def are_done(self) -> bool:
        """Whether every ask was carried out."""
        return all(future.done() for future in self._futures)

    def finish(self) -> None:
        """Give up what was not carried out; raise what went wrong with any ask."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        for future in self._futures:
            if not future.cancelled():
                future.result()

    def _carry_out(self, ask: Ask, first: bool) -> None:
        with self._client(ask.submitter) as http:
            call = {"key": ask.key, "submitter": ask.submitter, "request": ask.request}
            answer = self._call("submit", call, lambda: _post(http, "/audits", ask.key, ask.body))
            audit = answer["id"]
            if not first or ask.fate == "none":
                return
            if ask.fate != "retry from scratch":
                time.sleep(ask.patience)
                self._cancel(http, audit)
            if ask.fate != "cancel":
                self._retry(http, ask, audit)

    def _cancel(self, http: httpx.Client, audit: str) -> None:
        self._log.add("client", act="cancel.invoked", audit=audit)
        response = self._until_answered(lambda: http.post(f"/audits/{audit}/cancel"))
        accepted = response.status_code == httpx.codes.ACCEPTED
        if not accepted and response.status_code != httpx.codes.CONFLICT:
            raise RuntimeError(f"cancel of {audit}: {response.status_code} {response.text}")
        self._log.add("client", act="cancel.accepted" if accepted else "cancel.refused", audit=audit)

    def _retry(self, http: httpx.Client, ask: Ask, audit: str) -> None:
        """Ask for an audit that has ended once more."""
        while time.monotonic() < self._until:
            view = self._until_answered(lambda: http.get(f"/audits/{audit}")).json()
            if AuditStatus(view["status"]).is_terminal:
                break
            time.sleep(POLL_SECONDS)
        else:
            return
        key = f"{ask.key}-again"
        asked = {"from": "scratch" if ask.fate == "retry from scratch" else "checkpoint"}
        call = {"key": key, "submitter": ask.submitter, "request": ask.request}
        self._call("retry", call, lambda: _post(http, f"/audits/{audit}/retry", key, asked))

    def _call(self, act: str, call: dict[str, str], send: Callable[[], httpx.Response]) -> dict[str, Any]:
        """Send until it is accepted."""
        self._log.add("client", act=f"{act}.invoked", **call)
        response = self._until_answered(send, lambda: self._log.add("client", act=f"{act}.repeated", **call))
        if response.status_code != httpx.codes.ACCEPTED:
            raise RuntimeError(f"{act} of {call}: {response.status_code} {response.text}")
        answer: dict[str, Any] = response.json()
        self._log.add("client", act=f"{act}.accepted", audit=answer["id"], **call)
        return answer

    def _until_answered(
        self, send: Callable[[], httpx.Response], note: Callable[[], None] = lambda: None
    ) -> httpx.Response:
        """Call until something but a failure of the service comes back."""
        while not self._stopped.is_set():
            try:
                response = send()
            except httpx.TransportError:
                pass
            else:
                if not response.is_server_error:
                    return response
            time.sleep(PAUSE_SECONDS)
            note()
        raise RuntimeError("the service did not answer to the end")

    @contextmanager
    def _client(self, submitter: str) -> Iterator[httpx.Client]:
        headers = {"Authorization": f"Bearer {TOKENS[submitter]}"}
        with httpx.Client(
            base_url=self._url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False
        ) as http:
            yield http


def _post(http: httpx.Client, path: str, key: str, body: dict[str, Any]) -> httpx.Response:
    return http.post(path, json=body, headers={"Idempotency-Key": key})
