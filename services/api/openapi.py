"""The OpenAPI document: what FastAPI derives, and the schemas that only our own code uses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from shared.requests import AuditRequest, RetryRequest
from shared.views import Problem

DESCRIPTION = (
    "Audits whether facts edited into a language model still hold after it is fine-tuned. "
    "Every error is a problem document (RFC 9457)."
)


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        _, own = models_json_schema(
            [(AuditRequest, "validation"), (RetryRequest, "validation"), (Problem, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        schemas = found["components"]["schemas"]
        for name, schema in own["$defs"].items():
            schemas.setdefault(name, schema)
        for name in ("HTTPValidationError", "ValidationError"):  # never answered: see InvalidRequest
            schemas.pop(name, None)
        _use_problems_for_invalid_parameters(found)
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}, {}]
        app.openapi_schema = found
    return app.openapi_schema


def _use_problems_for_invalid_parameters(found: dict[str, Any]) -> None:
    """FastAPI announces its own 422 wherever there are parameters, in a form that we do not answer in."""
    for path in found["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(content.get("application/json")):
                del operation["responses"]["422"]
