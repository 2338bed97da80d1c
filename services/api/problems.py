"""What can go wrong for a client: one class per kind of problem (RFC 9457).

A domain module raises these; `problem_responses` turns them into answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from shared.states import AuditStatus
from shared.views import ProblemField

MAX_FIELDS = 100


class ProblemError(Exception):
    """A problem with its HTTP status; `name` is the last part of its `type` URI."""

    name: ClassVar[str]
    title: ClassVar[str]
    status: ClassVar[int]

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[ProblemField] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


class AuditNotFound(ProblemError):
    """There is no such audit, or it is another submitter's."""

    name, title, status = "audit-not-found", "Audit not found", 404

    def __init__(self, audit_id: str) -> None:
        super().__init__(f"There is no audit '{audit_id[:64]}'.")


class AuditEnded(ProblemError):
    """The audit has ended, so it cannot be cancelled."""

    name, title, status = "audit-ended", "Audit has ended", 409

    def __init__(self, audit_id: str, audit_status: AuditStatus) -> None:
        super().__init__(f"Audit '{audit_id}' is {audit_status} and cannot be cancelled any more.")


class AuditNotEnded(ProblemError):
    """The audit is still waiting or running; only one that has ended can be done again."""

    name, title, status = "audit-not-ended", "Audit has not ended", 409

    def __init__(self, audit_id: str, audit_status: AuditStatus) -> None:
        super().__init__(f"Audit '{audit_id}' is {audit_status}; it can be retried when it has ended.")


class ReportNotReady(ProblemError):
    """The audit has no report yet: it is still waiting or running."""

    name, title, status = "report-not-ready", "Report not ready", 409

    def __init__(self, audit_id: str, audit_status: AuditStatus) -> None:
        super().__init__(
            f"Audit '{audit_id}' is {audit_status}; its report is there when it has succeeded.",
            headers={"Retry-After": "5"},
        )


class NoReport(ProblemError):
    """The audit ended without a report."""

    name, title, status = "no-report", "No report was made", 404

    def __init__(self, audit_id: str, audit_status: AuditStatus, error: str | None) -> None:
        reason = f": {error}" if error else ""
        super().__init__(f"Audit '{audit_id}' is {audit_status} and has no report{reason}.")


class EditorNotFound(ProblemError):
    """There is no editor of that name."""

    name, title, status = "editor-not-found", "Editor not found", 404

    def __init__(self, editor: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no editor '{editor[:64]}'; known: {', '.join(known)}.")


class IdempotencyKeyReused(ProblemError):
    """The idempotency key was used before for a different request."""

    name, title, status = "idempotency-key-reused", "Idempotency key reused", 409

    def __init__(self, key: str) -> None:
        super().__init__(f"Idempotency key '{key}' belongs to an earlier request with another body.")


class InvalidRequest(ProblemError):
    """Fields of the request are missing or wrong; `errors` names each."""

    name, title, status = "invalid-request", "Invalid request", 422

    def __init__(self, errors: Sequence[ProblemField]) -> None:
        count = len(errors)
        detail = "1 field is at fault." if count == 1 else f"{count} fields are at fault."
        if count > MAX_FIELDS:
            detail = f"{count} fields are at fault; the first {MAX_FIELDS} are listed."
        super().__init__(detail, errors=errors[:MAX_FIELDS])


class ModelUnusable(ProblemError):
    """The model is not there, is not a decoder, or cannot be loaded safely."""

    name, title, status = "model-unusable", "Model cannot be audited", 422

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(
            f"Model '{reference}' cannot be audited: {reason}.",
            errors=[ProblemField(pointer="/model", detail=reason)],
        )


class TrainingDataUnusable(ProblemError):
    """Training data, of a recipe or uploaded, cannot be read or holds nothing to train on."""

    name, title, status = "training-data-unusable", "Training data cannot be used", 422

    def __init__(self, errors: Sequence[ProblemField]) -> None:
        super().__init__("; ".join(error.detail for error in errors[:3]), errors=errors[:MAX_FIELDS])


class TrainingSetNotFound(ProblemError):
    """There is no such training set, or it is another submitter's."""

    name, title, status = "training-set-not-found", "Training set not found", 404

    def __init__(self, training_set_id: str) -> None:
        super().__init__(f"There is no training set '{training_set_id[:64]}'.")


class UnsupportedRecordFormat(ProblemError):
    """The file of records is not declared as one of the formats that can be read."""

    name, title, status = "unsupported-record-format", "Unsupported record format", 415

    def __init__(self, known: Sequence[str]) -> None:
        super().__init__(f"Send the file as {', '.join(known)}, plain or with Content-Encoding: gzip.")


class MalformedBody(ProblemError):
    """The body is not the JSON that it should be."""

    name, title, status = "malformed-body", "Malformed body", 400


class BodyTooLarge(ProblemError):
    """The body is larger than this server takes."""

    name, title, status = "body-too-large", "Body too large", 413

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"The body may have at most {max_bytes} bytes.",
            headers={"Connection": "close"},  # the rest of it is not read
        )


class UnsupportedMediaType(ProblemError):
    """The body is not declared as JSON."""

    name, title, status = "unsupported-media-type", "Unsupported media type", 415

    def __init__(self) -> None:
        super().__init__("Send the body as application/json in UTF-8.")


class NotAcceptable(ProblemError):
    """None of the media types asked for is offered."""

    name, title, status = "not-acceptable", "Not acceptable", 406

    def __init__(self, offers: Sequence[str]) -> None:
        super().__init__(f"This can be had as {' or '.join(offers)}.")


class Unauthorized(ProblemError):
    """No valid bearer token came with the request."""

    name, title, status = "unauthorized", "Unauthorized", 401

    def __init__(self) -> None:
        super().__init__(
            "Send a valid token as 'Authorization: Bearer …'.",
            headers={"WWW-Authenticate": 'Bearer realm="holdfast"'},
        )


class PageNotFound(ProblemError):
    """There is nothing at this path."""

    name, title, status = "not-found", "Not found", 404


class MethodNotAllowed(ProblemError):
    """The path is there, but not for this method."""

    name, title, status = "method-not-allowed", "Method not allowed", 405


class ReportPageDamaged(ProblemError):
    """The stored page of the report is missing or damaged; the JSON report is not affected."""

    name, title, status = "report-page-damaged", "Report page damaged", 500


class ServiceUnavailable(ProblemError):
    """The database, the artifact store or a source of data is away; the same request can succeed soon."""

    name, title, status = "service-unavailable", "Service unavailable", 503

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} cannot be reached at the moment; try again.", headers={"Retry-After": "2"})


class InternalError(ProblemError):
    """Something failed on the server; the instance leads its operator to the log."""

    name, title, status = "internal-error", "Internal error", 500

    def __init__(self) -> None:
        super().__init__("The server failed to answer; its log has the reason under the instance's id.")
