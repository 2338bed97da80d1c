"""`/audits`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse
from starlette.responses import JSONResponse

from services.api import audits, events, reports, results
from services.api.authentication import Principal
from services.api.dependencies import CheckedRequest, CheckedRetry, Parts, PartsDep, Submitter
from services.api.examples import AUDIT_REQUESTS, AUDIT_VIEW
from services.api.negotiation import CSV, EVENT_STREAM, HTML, JSON, choose
from services.api.problem_responses import problems
from services.api.problems import (
    AuditEnded,
    AuditNotEnded,
    AuditNotFound,
    BodyTooLarge,
    IdempotencyKeyReused,
    InvalidRequest,
    MalformedBody,
    ModelUnusable,
    NoReport,
    NotAcceptable,
    ReportNotReady,
    ReportPageDamaged,
    ServiceUnavailable,
    TrainingDataUnusable,
    Unauthorized,
    UnsupportedMediaType,
)
from services.api.retries import retry
from services.api.submissions import Submission, submit
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import Report
from shared.requests import LABEL_KEY
from shared.states import AuditStatus, Verdict
from shared.views import AuditPage, AuditView, EventView, ResultPage

router = APIRouter(prefix="/audits", tags=["audits"], responses=problems(ServiceUnavailable))

LABEL = rf"{LABEL_KEY.removesuffix('$')}:[^\x00]{{0,255}}$"
IDEMPOTENCY_KEY = r"^[!-~]{1,255}$"
EVENTS_AT_ONCE = 1_000
ACCEPTED: dict[str, Any] = {
    "description": "Accepted. The audit is durable when this answer is sent.",
    "headers": {"Location": {"description": "The audit.", "schema": {"type": "string"}}},
    "content": {JSON: {"example": AUDIT_VIEW}},
}
Cursor = Annotated[str | None, Query(max_length=1_000, description="`next_cursor` of the page before.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=IDEMPOTENCY_KEY,
        description="With the same key, the same request makes one audit, however often it is sent.",
    ),
]
Accept = Annotated[str | None, Header(include_in_schema=False)]


@router.post(
    "",
    status_code=202,
    responses={
        202: ACCEPTED,
        **problems(
            MalformedBody,
            Unauthorized,
            IdempotencyKeyReused,
            BodyTooLarge,
            UnsupportedMediaType,
            InvalidRequest,
            ModelUnusable,
            TrainingDataUnusable,
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"$ref": "#/components/schemas/AuditRequest"}, "examples": AUDIT_REQUESTS}
            },
        }
    },
)
def create_audit(
    request: CheckedRequest,
    parts: PartsDep,
    principal: Submitter,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> AuditView:
    """Submit an audit."""
    submission = Submission(request, principal, idempotency_key)
    audit_id = submit(parts.engine, parts.settings, submission, parts.inspector)
    return _accepted(audit_id, parts, principal, response)


@router.get("", responses=problems(Unauthorized, InvalidRequest))
def list_audits(
    parts: PartsDep,
    principal: Submitter,
    status: AuditStatus | None = None,
    verdict: Verdict | None = None,
    label: Annotated[str | None, Query(pattern=LABEL, description="`key:value`")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Cursor = None,
) -> AuditPage:
    """List audits, newest first."""
    key, _, value = (label or "").partition(":")
    wanted = audits.AuditFilter(status, verdict, (key, value) if label else None)
    return audits.page(parts.engine, principal, wanted, limit, cursor)


@router.get("/{audit_id}", responses=problems(Unauthorized, AuditNotFound))
def get_audit(audit_id: str, parts: PartsDep, principal: Submitter) -> AuditView:
    """Show where an audit stands."""
    return audits.view(parts.engine, principal, audit_id)


@router.get(
    "/{audit_id}/events",
    response_model=list[EventView],
    responses={
        200: {
            "description": "Events in order. As an event stream, they are sent as they happen until the "
            "audit has ended; each has its sequence number as its id.",
            "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        },
        204: {"description": "The stream has nothing more to send: the audit ended before."},
        **problems(Unauthorized, AuditNotFound, NotAcceptable, InvalidRequest),
    },
)
def get_events(
    audit_id: str,
    parts: PartsDep,
    principal: Submitter,
    after: Annotated[int, Query(ge=0, le=events.MAX_SEQUENCE, description="Only later events.")] = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS_AT_ONCE)] = 100,
    last_event_id: Annotated[str | None, Header(description="Where a lost stream goes on.")] = None,
    accept: Accept = None,
) -> Any:
    """Show what has happened to an audit."""
    if choose(accept, [JSON, EVENT_STREAM]) == JSON:
        return events.after(parts.engine, principal, audit_id, after, limit)
    resumed = events.last_event_id(last_event_id)
    start = after if resumed is None else resumed
    events.after(parts.engine, principal, audit_id, start, 1)
    following, ended = events.poll(parts.engine, audit_id, start, 1)
    if ended and not following:
        return Response(status_code=204)  # tells an EventSource not to connect again
    return EventSourceResponse(
        events.stream(parts.engine, audit_id, start, parts.stream_threads), ping=15, sep="\n"
    )


@router.get(
    "/{audit_id}/results",
    response_model=ResultPage,
    responses={
        200: {
            "description": "A row per fact, arm and mode. As CSV, all of them at once.",
            "content": {CSV: {"schema": {"type": "string"}}},
        },
        **problems(Unauthorized, AuditNotFound, NotAcceptable, InvalidRequest),
    },
)
def get_results(
    audit_id: str,
    parts: PartsDep,
    principal: Submitter,
    arm: Arm | None = None,
    mode: Mode | None = None,
    fact_kind: FactKind | None = None,
    probe_kind: ProbeKind | None = None,
    editor: Annotated[str | None, Query(max_length=64)] = None,
    recipe: Annotated[str | None, Query(max_length=64)] = None,
    stressor: Annotated[str | None, Query(max_length=64)] = None,
    seed: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    every_step: Annotated[bool, Query(description="Also the probes while tuning went on.")] = False,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    cursor: Cursor = None,
    accept: Accept = None,
) -> Any:
    """Show how every probe scored."""
    wanted = results.ResultFilter(
        arm, mode, fact_kind, probe_kind, editor, recipe, stressor, seed, every_step
    )
    if choose(accept, [JSON, CSV]) == JSON:
        return results.page(parts.engine, principal, audit_id, wanted, limit, cursor)
    steps = results.measured_steps(parts.engine, principal, audit_id, wanted)
    return StreamingResponse(
        results.csv_lines(parts.engine, steps, wanted),
        media_type=f"{CSV}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="results-{audit_id}.csv"'},
    )


@router.get(
    "/{audit_id}/report",
    response_model=Report,
    responses={
        200: {
            "description": "The report, as data or as a page to look at.",
            "content": {HTML: {"schema": {"type": "string"}}},
        },
        **problems(Unauthorized, AuditNotFound, NoReport, NotAcceptable, ReportNotReady, ReportPageDamaged),
    },
)
def get_report(audit_id: str, parts: PartsDep, principal: Submitter, accept: Accept = None) -> Any:
    """Show what an audit found."""
    if choose(accept, [JSON, HTML]) == JSON:
        return JSONResponse(reports.report(parts.engine, principal, audit_id))
    return Response(
        reports.page(parts.engine, parts.store, principal, audit_id),
        media_type=f"{HTML}; charset=utf-8",
        headers={"Content-Security-Policy": reports.PAGE_POLICY},
    )


@router.post(
    "/{audit_id}/cancel", status_code=202, responses=problems(Unauthorized, AuditNotFound, AuditEnded)
)
def cancel_audit(audit_id: str, parts: PartsDep, principal: Submitter) -> AuditView:
    """Have an audit stopped. It has ended when its status is `cancelled`."""
    audits.cancel(parts.engine, principal, audit_id)
    return audits.view(parts.engine, principal, audit_id)


@router.post(
    "/{audit_id}/retry",
    status_code=202,
    responses={
        202: ACCEPTED,
        **problems(
            MalformedBody,
            Unauthorized,
            AuditNotFound,
            AuditNotEnded,
            IdempotencyKeyReused,
            BodyTooLarge,
            UnsupportedMediaType,
            InvalidRequest,
            ModelUnusable,
            TrainingDataUnusable,
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/RetryRequest"}}},
        }
    },
)
def retry_audit(
    audit_id: str,
    wanted: CheckedRetry,
    parts: PartsDep,
    principal: Submitter,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> AuditView:
    """Do an audit again that has ended: a new audit of the same request, with the same model revision."""
    new_id = retry(
        parts.engine, parts.settings, principal, audit_id, wanted, idempotency_key, parts.inspector
    )
    return _accepted(new_id, parts, principal, response)


def _accepted(audit_id: str, parts: Parts, principal: Principal, response: Response) -> AuditView:
    parts.relay.notify()
    response.headers["Location"] = f"/audits/{audit_id}"
    return audits.view(parts.engine, principal, audit_id)
