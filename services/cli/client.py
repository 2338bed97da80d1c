"""A client of the service's REST API."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from services.cli.errors import HoldfastError, ServiceUnreachable
from shared.reports import Report
from shared.views import AuditView, EventView, Problem, ResultPage, ResultRow

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.2
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
UNAVAILABLE = frozenset({502, 503, 504})
PAGE_SIZE = 500

ViewT = TypeVar("ViewT", bound=BaseModel)


class HoldfastClient:
    """Calls one service; every method raises `HoldfastError` when the service says no.

    Calls that did not get through are repeated a few times: reads change nothing, and a submission
    carries an idempotency key.

    Raises:
        ServiceUnreachable: no answer, even after repeating.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._sleep = sleep
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ServiceUnreachable(f"'{url}' is no URL", str(error)) from error
        self._http = httpx.Client(
            base_url=address,
            headers={"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})},
            timeout=TIMEOUT_SECONDS,
            trust_env=address.host not in LOOPBACK,  # a proxy cannot reach this machine
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, request: Any) -> AuditView:
        """Submit an audit; it is durable when this returns."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._parse(AuditView, self._call("POST", "/audits", json=request, headers=headers))

    def get(self, audit_id: str) -> AuditView:
        """Where an audit stands."""
        return self._parse(AuditView, self._call("GET", f"/audits/{audit_id}"))

    def cancel(self, audit_id: str) -> AuditView:
        """Ask for an audit to be stopped."""
        return self._parse(AuditView, self._call("POST", f"/audits/{audit_id}/cancel"))

    def retry(self, audit_id: str, *, from_scratch: bool = False) -> AuditView:
        """Have an audit done again that has ended; the new audit is durable when this returns."""
        body = {"from": "scratch" if from_scratch else "checkpoint"}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._parse(
            AuditView, self._call("POST", f"/audits/{audit_id}/retry", json=body, headers=headers)
        )

    def report(self, audit_id: str) -> Report:
        """The report of a finished audit."""
        return self._parse(Report, self._call("GET", f"/audits/{audit_id}/report"))

    def report_page(self, audit_id: str) -> str:
        """The same report as a page to look at (HTML)."""
        return self._call("GET", f"/audits/{audit_id}/report", headers={"Accept": "text/html"}).text

    def results(self, audit_id: str, **filters: str | int) -> Iterator[ResultRow]:
        """Every probe's score, page by page."""
        cursor: str | None = None
        while True:
            params = {"limit": PAGE_SIZE, **filters, **({"cursor": cursor} if cursor else {})}
            answer = self._call("GET", f"/audits/{audit_id}/results", params=params)
            page = self._parse(ResultPage, answer)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def events(self, audit_id: str, after: int = 0) -> Iterator[EventView]:
        """What has happened to the audit since event number `after`, up to now."""
        while True:
            params = {"after": after, "limit": PAGE_SIZE}
            events = _json(self._call("GET", f"/audits/{audit_id}/events", params=params))
            for event in map(EventView.model_validate, events):
                yield event
                after = event.sequence
            if len(events) < PAGE_SIZE:
                return

    def follow(
        self, audit_id: str, *, every_seconds: float = 0.5, check: Callable[[], None] = lambda: None
    ) -> Iterator[AuditView]:
        """Yield the audit each time it has changed, up to and including its end.

        check: called before every look; raises when going on is pointless.
        """
        previous: AuditView | None = None
        while previous is None or not previous.status.is_terminal:
            check()
            view = self.get(audit_id)
            if view != previous:
                yield view
            previous = view
            if not view.status.is_terminal:
                self._sleep(every_seconds)

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.UnsupportedProtocol):
                    raise ServiceUnreachable(
                        f"No answer from {self.url}",
                        str(error) or type(error).__name__,
                        hint="Is the service running there? 'holdfast serve' starts one.",
                    ) from error
            else:
                if last or response.status_code not in UNAVAILABLE:
                    return self._checked(response)
            self._sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise HoldfastError(
                f"{self.url} answered {response.status_code} {response.reason_phrase}",
                response.text[:500].strip(),
                status=response.status_code,
                hint="That is not how Holdfast answers: is the URL right?",
            ) from None
        hint = "Give the token with --token or HOLDFAST_TOKEN." if response.status_code == 401 else ""
        raise HoldfastError(
            problem.title, problem.detail, status=problem.status, fields=problem.errors, hint=hint
        )

    def _parse(self, kind: type[ViewT], response: httpx.Response) -> ViewT:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise HoldfastError(
                f"The answer of {self.url} is not understood",
                f"{error.error_count()} fields of {kind.__name__} differ",
                hint="Do the service and this command have the same version? Is the URL right?",
            ) from error


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise HoldfastError(f"The answer of {response.url} is not JSON", str(error)) from error
