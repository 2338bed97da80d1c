"""Around every request: an id, safe headers, one line in the log, and an answer whatever fails."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problem_responses import as_response
from services.api.problems import InternalError

access_log = logging.getLogger("holdfast.access")
error_log = logging.getLogger("holdfast.error")

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DEFAULT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class RequestMiddleware:
    """The outermost layer of the application.

    A log line has method, path, status, milliseconds, request id and submitter: never a query, a
    header or a body, which can hold tokens and customers' text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0
        begun = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in DEFAULT_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            error_log.exception("request %s failed", request_id)
            if status == 0:
                await as_response(InternalError(), request_id)(scope, receive, send_with_headers)
            else:  # half an answer is out: only cutting it off can tell the client
                raise
        finally:
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "milliseconds": round((time.perf_counter() - begun) * 1000),
                "request_id": request_id,
                "submitter": state.get("submitter", "-"),
            }
            access_log.info(
                " ".join(f"{name}=%s" for name in fields), *(_one_word(value) for value in fields.values())
            )


def _request_id(given: str | None) -> str:
    """The client's own id where it is harmless, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _one_word(value: object) -> str:
    """No text from outside may begin a line or a field of its own."""
    return re.sub(r"[^!-~]", "?", str(value))[:200]
