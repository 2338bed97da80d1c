"""The report of a finished audit, as data or as a page."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Engine, select
from sqlmodel import col

from services.api import audits
from services.api.authentication import Principal
from services.api.problems import NoReport, ReportNotReady, ReportPageDamaged
from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStore
from shared.database import reading
from shared.tables import StoredReport

log = logging.getLogger(__name__)

PAGE_POLICY = (  # the page brings its styles and pictures with it and runs nothing
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def report(engine: Engine, principal: Principal, audit_id: str) -> dict[str, Any]:
    """The report as JSON.

    Raises:
        AuditNotFound, ReportNotReady, NoReport: there is none to show.
    """
    return _stored(engine, principal, audit_id).report


def page(engine: Engine, store: ArtifactStore, principal: Principal, audit_id: str) -> bytes:
    """The report as HTML.

    Raises:
        AuditNotFound, ReportNotReady, NoReport: there is none to show.
        ReportPageDamaged: its file is not what was written.
    """
    stored = _stored(engine, principal, audit_id)
    try:
        return store.get(Artifact(stored.page, stored.page_sha256))
    except ArtifactCorrupt as error:
        log.error("report page of audit %s: %s", audit_id, error)
        raise ReportPageDamaged(f"The page cannot be shown: {error}. The JSON report can.") from None


def _stored(engine: Engine, principal: Principal, audit_id: str) -> StoredReport:
    with reading(engine) as session:
        audit = audits.find(session, principal, audit_id)
        stored: StoredReport | None = session.execute(
            select(StoredReport).where(col(StoredReport.audit_id) == audit_id)
        ).scalar_one_or_none()
    if not audit.status.is_terminal:
        raise ReportNotReady(audit_id, audit.status)
    if stored is None:
        raise NoReport(audit_id, audit.status, audit.error)
    return stored
