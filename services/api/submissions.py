"""Accepting an audit: checked whole before anything is written, durable once it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from services.api.authentication import Principal
from services.api.expected_steps import expected_steps
from services.api.given_models import check_adapters, pin_tuned
from services.api.paraphrase_writers import pin_writers
from services.api.problems import IdempotencyKeyReused, InvalidRequest, ModelUnusable
from services.api.supplied_models import pin_supplied
from services.api.training_data import check_training_data
from services.api.validation import pointer
from shared.database import database_now, reading, transaction
from shared.editors import CATALOGUE
from shared.events import append_event
from shared.model_references import InspectedModel, ModelNotUsable, inspect_model, parse_model_reference
from shared.outbox import request_wake_up
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import Audit, EditSet, Step, new_id
from shared.views import ProblemField

WRITE_ATTEMPTS = 3

ModelInspector = Callable[[str, Settings], InspectedModel]


def inspect(reference: str, settings: Settings) -> InspectedModel:
    """What can be said of the model that `reference` names; raises ModelNotUsable."""
    return inspect_model(parse_model_reference(reference), settings)


@dataclass(frozen=True)
class Retry:
    """The earlier audit that is done again.

    model: what it named, at the revision that it was pinned to. from_scratch: nothing is taken over.
    """

    of: str
    model: str
    from_scratch: bool


@dataclass(frozen=True)
class Submission:
    """A request as it will be written: by whom, under which key, and its hashes."""

    request: AuditRequest
    principal: Principal
    idempotency_key: str | None
    retry: Retry | None = None

    @property
    def hash(self) -> str:
        """The same for the same request, also where a later version knows more settings by default."""
        request = self.request.model_dump(mode="json", exclude_defaults=True)
        return canonical_hash([request, asdict(self.retry)] if self.retry else request)

    @property
    def model_to_inspect(self) -> str:
        """The model, at the revision that the audit done again was pinned to."""
        return self.retry.model if self.retry else self.request.model

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits as JSON."""
        edits: list[dict[str, Any]] = self.request.model_dump(mode="json", include={"edits"})["edits"]
        return edits

    @property
    def rest(self) -> dict[str, Any]:
        """The request without its edits, as JSON."""
        return self.request.model_dump(mode="json", exclude={"edits"})


def submit(
    engine: Engine, settings: Settings, submission: Submission, inspector: ModelInspector = inspect
) -> str:
    """Write the audit, or find the one that the same request under the same key made before; its id.

    Raises:
        ModelUnusable, TrainingDataUnusable, InvalidRequest: it could not be worked on.
        ServiceUnavailable: a source of training data is away.
        IdempotencyKeyReused: the key belongs to another request.
    """
    request_hash = submission.hash
    if (earlier := _earlier(engine, submission, request_hash)) is not None:
        return earlier
    model = _check_model(submission, settings, inspector)
    check_adapters(submission.request, settings)
    request = pin_tuned(submission.request, model, settings, inspector)
    request = pin_writers(pin_supplied(request, model, settings, inspector), settings)
    submission = replace(submission, request=request)
    check_training_data(request, submission.principal, settings, engine)
    audit = _new_audit(submission, request_hash, model, settings)
    for _ in range(WRITE_ATTEMPTS - 1):
        try:
            return _write(engine, submission, audit)
        except IntegrityError:  # the same edits or the same key were written at the same moment
            if (earlier := _earlier(engine, submission, request_hash)) is not None:
                return earlier
    return _write(engine, submission, audit)


def canonical_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _earlier(engine: Engine, submission: Submission, request_hash: str) -> str | None:
    """The audit that this submitter's key made before."""
    if submission.idempotency_key is None:
        return None
    with reading(engine) as session:
        found = session.execute(
            select(col(Audit.id), col(Audit.request_hash)).where(
                col(Audit.submitter) == submission.principal.submitter,
                col(Audit.idempotency_key) == submission.idempotency_key,
            )
        ).one_or_none()
    if found is None:
        return None
    audit_id, earlier_hash = found
    if earlier_hash != request_hash:
        raise IdempotencyKeyReused(submission.idempotency_key)
    return str(audit_id)


def _check_model(submission: Submission, settings: Settings, inspector: ModelInspector) -> InspectedModel:
    request = submission.request
    try:
        model = inspector(submission.model_to_inspect, settings)
    except ModelNotUsable as error:
        raise ModelUnusable(request.model, error.reason) from None
    if model.block_count is not None:
        faults = []
        for index, choice in enumerate(request.editors):
            chosen = CATALOGUE[choice.name].settle(request.model, choice.hyperparameters, model.model_type)
            try:
                chosen.untraced().edited_layers(model.block_count)
            except ValueError as error:
                where = pointer(["editors", index, "hyperparameters", "layers"])
                faults.append(ProblemField(pointer=where, detail=str(error)))
        if faults:
            raise InvalidRequest(faults)
    return model


def _new_audit(
    submission: Submission, request_hash: str, model: InspectedModel, settings: Settings
) -> dict[str, Any]:
    """The columns of the audit's row but for its id and its edit set."""
    request, retry = submission.request, submission.retry
    queue_seconds = request.deadlines.queue_seconds or settings.queue_deadline_seconds
    return {
        "submitter": submission.principal.submitter,
        "idempotency_key": submission.idempotency_key,
        "request_hash": request_hash,
        "request": submission.rest,
        "model_reference": request.model,
        "model_revision": model.revision,
        "labels": request.labels,
        "priority": request.priority,
        "status": AuditStatus.QUEUED,
        "event_count": 0,
        "run_seconds": request.deadlines.run_seconds or settings.run_deadline_seconds,
        "from_scratch": retry is not None and retry.from_scratch,
        "retry_of": retry.of if retry else None,
        "created_at": database_now(),
        "expires_at": database_now(queue_seconds),
    }


def _write(engine: Engine, submission: Submission, audit: dict[str, Any]) -> str:
    """Edit set, audit, plan step, first event and wake-up in one transaction."""
    audit_id, edits = new_id(), submission.edits
    with transaction(engine) as session:
        session.execute(insert(Audit).values(**audit, id=audit_id, edit_set_id=_edit_set(session, edits)))
        session.execute(
            insert(Step).values(
                id=new_id(),
                audit_id=audit_id,
                position=0,
                kind=StepKind.PLAN,
                title="plan",
                key=canonical_hash({"plan of audit": audit_id}),  # never shared with another audit
                needs=[],
                inputs={},
                status=StepStatus.PENDING,
                ready_at=database_now(),
                deaths=0,
                progress=0.0,
            )
        )
        told = {"retry_of": submission.retry.of} if submission.retry else {}
        append_event(
            session,
            audit_id,
            "audit.submitted",
            model=submission.request.model,
            edits=len(edits),
            steps=expected_steps(submission.request),
            **told,
        )
        request_wake_up(session, audit_id)
    return audit_id


def _edit_set(session: Session, edits: list[dict[str, Any]]) -> str:
    """The id of the edit set with this content; it is written when it is new."""
    content_hash = canonical_hash(edits)
    found = session.execute(
        select(col(EditSet.id)).where(col(EditSet.content_hash) == content_hash)
    ).scalar_one_or_none()
    if found is not None:
        return str(found)
    edit_set_id = new_id()
    session.execute(
        insert(EditSet).values(
            id=edit_set_id,
            content_hash=content_hash,
            edit_count=len(edits),
            edits=edits,
            created_at=database_now(),
        )
    )
    return edit_set_id
