"""What says something of the service itself: health, the index page, the kinds of problem."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from services.api.dependencies import PartsDep
from services.api.problem_catalogue import ProblemKind, kinds_of_problem
from services.api.problem_responses import problems
from services.api.problems import PageNotFound
from services.api.readiness import readiness
from shared.views import Health

router = APIRouter(tags=["service"])

INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Holdfast</title>
<h1>Holdfast</h1>
<p>Audits how well knowledge edits to a language model survive fine-tuning.</p>
<ul>
<li><a href="/openapi.json">The API, as an OpenAPI document</a></li>
<li><a href="/audits">Audits</a></li>
<li><a href="/editors">Editors and their hyperparameters</a></li>
<li><a href="/readyz">Readiness</a></li>
</ul>
</html>
"""


@router.get("/", include_in_schema=False)
def index() -> HTMLResponse:
    """Where to begin."""
    return HTMLResponse(INDEX)


@router.get("/livez")
def live() -> Health:
    """Tell that the process answers."""
    return Health(status="alive")


@router.get("/readyz", responses={503: {"model": Health, "description": "Something is missing."}})
def ready(parts: PartsDep, response: Response) -> Health:
    """Tell whether the service can do its work."""
    health = readiness(parts.engine, parts.store)
    if health.status != "ready":
        response.status_code = 503
    return health


@router.get("/problems/{name}", responses=problems(PageNotFound))
def describe_problem(name: str) -> ProblemKind:
    """Explain a kind of problem; its `type` leads here."""
    kinds = kinds_of_problem()
    if name not in kinds:
        raise PageNotFound("There is no such kind of problem.")
    return kinds[name]
