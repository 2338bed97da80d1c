"""Every problem leaves as `application/problem+json`, and the OpenAPI document says which can occur."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.api.problems import (
    InvalidRequest,
    MethodNotAllowed,
    PageNotFound,
    ProblemError,
    ServiceUnavailable,
)
from services.api.validation import parameter_faults
from shared.artifacts import ArtifactStoreUnavailable
from shared.patience import is_away
from shared.views import Problem

log = logging.getLogger("holdfast.error")

MEDIA_TYPE = "application/problem+json"


def as_response(problem: ProblemError, request_id: str | None) -> Response:
    """The answer that tells a client of `problem`."""
    return problem_response(
        type_uri=f"/problems/{problem.name}",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        request_id=request_id,
        errors=[error.model_dump() for error in problem.errors],
        headers=problem.headers,
    )


def problem_response(
    *,
    type_uri: str,
    title: str,
    status: int,
    detail: str,
    request_id: str | None,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document; `instance` names the request as the log does."""
    body = Problem.model_validate(
        {
            "type": type_uri,
            "title": title,
            "status": status,
            "detail": detail,
            "instance": f"urn:holdfast:request:{request_id}" if request_id else None,
            "errors": errors or [],
        }
    )
    return JSONResponse(body.model_dump(), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Have every error of the application answered as a problem."""

    @app.exception_handler(ProblemError)
    async def _problem(request: Request, error: ProblemError) -> Response:
        return as_response(error, _request_id(request))

    @app.exception_handler(DBAPIError)
    async def _database(request: Request, error: DBAPIError) -> Response:
        if not is_away(error):
            raise error
        return _unavailable(request, "The database", error)

    @app.exception_handler(ArtifactStoreUnavailable)
    async def _store(request: Request, error: ArtifactStoreUnavailable) -> Response:
        return _unavailable(request, "The artifact store", error)

    @app.exception_handler(RequestValidationError)
    async def _invalid_parameters(request: Request, error: RequestValidationError) -> Response:
        return as_response(InvalidRequest(parameter_faults(error.errors())), _request_id(request))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.NOT_FOUND:
            missing = PageNotFound("There is nothing at this path.", headers=headers)
            return as_response(missing, _request_id(request))
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible here."
            if allowed := methods_of(request.scope["path"], routers):
                headers["Allow"] = ", ".join(allowed)
            return as_response(MethodNotAllowed(detail, headers=headers), _request_id(request))
        return problem_response(
            type_uri="about:blank",
            title=HTTPStatus(error.status_code).phrase,
            status=error.status_code,
            detail=error.detail,
            request_id=_request_id(request),
            headers=headers,
        )


def _unavailable(request: Request, what: str, error: Exception) -> Response:
    """The reason goes to the log alone: it may hold addresses and names."""
    log.warning("request %s failed: %s", _request_id(request), error)
    return as_response(ServiceUnavailable(what), _request_id(request))


def methods_of(path: str, routers: Sequence[APIRouter]) -> list[str]:
    """Every method that `path` has; the framework itself names those of one route only."""
    return sorted(
        method
        for router in routers
        for route in router.routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    )


def problems(*kinds: type[ProblemError]) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses=` says of the problems that it can answer with."""
    by_status: dict[int, list[type[ProblemError]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    return {
        status: {
            "description": " ".join(kind.__doc__ or kind.title for kind in found),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {kind.name: {"value": _example(kind)} for kind in found},
                }
            },
        }
        for status, found in by_status.items()
    }


def _example(kind: type[ProblemError]) -> dict[str, Any]:
    errors = []
    if issubclass(kind, InvalidRequest):
        errors = [{"pointer": "/edits/3/subject", "detail": "Field required"}]
    return {
        "type": f"/problems/{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.__doc__,
        "instance": "urn:holdfast:request:0f8a6c1de2b94f0b9d3f1c7a5e8b2d46",
        "errors": errors,
    }


def _request_id(request: Request) -> str | None:
    found: str | None = request.scope.get("state", {}).get("request_id")
    return found
