"""What routes are given: the application's parts, the principal, and a checked request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Header, Request
from pydantic import ValidationError
from sqlalchemy import Engine

from services.api.authentication import Principal, authenticate
from services.api.bodies import parse_json, read_bounded
from services.api.problems import InvalidRequest
from services.api.relay import Relay
from services.api.submissions import ModelInspector
from services.api.validation import body_faults
from shared.artifacts import ArtifactStore
from shared.requests import AuditRequest
from shared.settings import Settings


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
    return await read_bounded(request, parts.settings.max_body_bytes)


def audit_request(body: Annotated[bytes, Depends(json_body)]) -> AuditRequest:
    """The body as a request that holds together; parsed in a thread, since it can be large.

    Raises:
        MalformedBody, InvalidRequest: it is not.
    """
    value = parse_json(body)
    try:
        return AuditRequest.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(body_faults(error, value)) from None


CheckedRequest = Annotated[AuditRequest, Depends(audit_request)]
