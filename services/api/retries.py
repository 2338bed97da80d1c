"""Doing an audit again that has ended: a new audit of the same request."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine
from sqlmodel import col

from services.api import audits
from services.api.authentication import Principal
from services.api.problems import AuditNotEnded, InvalidRequest
from services.api.submissions import ModelInspector, Retry, Submission, inspect, submit
from services.api.validation import body_faults
from shared.database import reading
from shared.model_references import HubModel, ModelNotUsable, parse_model_reference
from shared.requests import AuditRequest, RetryRequest
from shared.settings import Settings
from shared.tables import Audit, EditSet


def retry(
    engine: Engine,
    settings: Settings,
    principal: Principal,
    audit_id: str,
    wanted: RetryRequest,
    idempotency_key: str | None,
    inspector: ModelInspector = inspect,
) -> str:
    """Submit the audit's request once more, by the rules of any submission; the new audit's id.

    Raises:
        AuditNotFound: there is none of that id that the principal may see.
        AuditNotEnded: it is still waiting or running.
        ModelUnusable, TrainingDataUnusable, InvalidRequest, IdempotencyKeyReused: as for a submission.
    """
    columns = (Audit.status, Audit.request, Audit.model_reference, Audit.model_revision, EditSet.edits)
    with reading(engine) as session:
        earlier = audits.find(session, principal, audit_id, *map(col, columns))
    if not earlier.status.is_terminal:
        raise AuditNotEnded(audit_id, earlier.status)
    submission = Submission(
        _request({**earlier.request, "edits": earlier.edits}),
        principal,
        idempotency_key,
        Retry(
            of=audit_id,
            model=pinned(earlier.model_reference, earlier.model_revision),
            from_scratch=wanted.start == "scratch",
        ),
    )
    return submit(engine, settings, submission, inspector)


def pinned(reference: str, revision: str | None) -> str:
    """A hub's model at the commit that was found before; any other model as it is now."""
    try:
        model = parse_model_reference(reference)
    except ModelNotUsable:  # it was, for another version: the inspection says why it is refused now
        return reference
    if isinstance(model, HubModel) and revision is not None:
        return str(HubModel(model.repository, revision))
    return reference


def _request(value: dict[str, Any]) -> AuditRequest:
    """The request, which this version must accept as well."""
    try:
        return AuditRequest.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(body_faults(error, value)) from None
