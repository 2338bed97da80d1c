"""What routes are given: the application's parts, the principal, and a checked request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio
from fastapi import Depends, Header, Request
from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine

from services.api.authentication import Principal, authenticate
from services.api.bodies import parse_json, read_bounded, read_json, require_json
from services.api.problems import InvalidRequest
from services.api.relay import Relay
from services.api.submissions import ModelInspector
from services.api.validation import body_faults
from shared.artifacts import ArtifactStore
from shared.requests import AuditRequest, RetryRequest
from shared.settings import Settings

RequestT = TypeVar("RequestT", bound=BaseModel)


@dataclass(frozen=True)
class Parts:
    """What one application is made of."""

    settings: Settings
    engine: Engine
    store: ArtifactStore
    relay: Relay
    inspector: ModelInspector
    stream_threads: anyio.CapacityLimiter


def parts(request: Request) -> Parts:
    """The parts of the application that the request came to."""
    found: Parts = request.app.state.parts
    return found


PartsDep = Annotated[Parts, Depends(parts)]


def submitter(
    request: Request,
    parts: PartsDep,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Principal:
    """Who is asking; raises Unauthorized."""
    principal = authenticate(parts.settings, authorization)
    request.state.submitter = principal.submitter
    return principal


Submitter = Annotated[Principal, Depends(submitter)]


async def json_body(request: Request, parts: PartsDep, _: Submitter) -> bytes:
    """The body, once it is known who sends it."""
    return await read_json(request, parts.settings.max_body_bytes)


def audit_request(body: Annotated[bytes, Depends(json_body)]) -> AuditRequest:
    """The body as a request that holds together; parsed in a thread, since it can be large.

    Raises:
        MalformedBody, InvalidRequest: it is not.
    """
    return _checked(AuditRequest, body)


CheckedRequest = Annotated[AuditRequest, Depends(audit_request)]


async def retry_request(request: Request, parts: PartsDep, _: Submitter) -> RetryRequest:
    """The body as a wish for a retry; none at all wishes for the default.

    Raises:
        UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest: it is something else.
    """
    body = await read_bounded(request, parts.settings.max_body_bytes)
    if not body:
        return RetryRequest()
    require_json(request)
    return _checked(RetryRequest, body)


CheckedRetry = Annotated[RetryRequest, Depends(retry_request)]


def _checked(kind: type[RequestT], body: bytes) -> RequestT:
    value = parse_json(body)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(body_faults(error, value)) from None
