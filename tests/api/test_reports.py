"""A report is served as data or as a page, once it is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, insert
from starlette.testclient import TestClient

from shared.artifacts import ArtifactStore
from shared.database import database_now, transaction
from shared.settings import Settings
from shared.states import AuditStatus
from shared.tables import StoredReport
from tests.support.audits import add_audit

REPORT = {"audit_id": "a", "verdict": "pass", "why": "80 % → 92 %"}
PAGE = "<!doctype html><title>Bericht ✓</title>".encode()
HTML = {"Accept": "text/html"}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Settings(data_directory=tmp_path).resolved_artifacts_url)


@pytest.fixture
def audit_id(engine: Engine, store: ArtifactStore) -> str:
    """An audit that has succeeded, with its report."""
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    page = store.put(PAGE, ".html")
    with transaction(engine) as session:
        session.execute(
            insert(StoredReport).values(
                audit_id=audit_id,
                report=REPORT,
                page=page.name,
                page_sha256=page.sha256,
                created_at=database_now(),
            )
        )
    return audit_id


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "application/json",
        "application/*",
        "text/html;q=0.5, application/json",
        "text/html;q=0, */*",
    ],
)
def test_report_is_json_unless_a_page_is_preferred(
    client: TestClient, audit_id: str, accept: str | None
) -> None:
    response = client.get(f"/audits/{audit_id}/report", headers={"Accept": accept} if accept else {})
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == REPORT


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "TEXT/HTML; Q=1",
        "text/*",
    ],
)
def test_browser_is_shown_the_page(client: TestClient, audit_id: str, accept: str) -> None:
    response = client.get(f"/audits/{audit_id}/report", headers={"Accept": accept})
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.content == PAGE


def test_page_may_run_and_load_nothing(client: TestClient, audit_id: str) -> None:
    policy = client.get(f"/audits/{audit_id}/report", headers=HTML).headers["Content-Security-Policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert {name for name in directives if name.startswith("script")} == set()
    assert "http" not in policy


@pytest.mark.parametrize("accept", ["image/png", "text/html;q=0", "text/html;q=nonsense"])
def test_other_media_types_are_not_offered(client: TestClient, audit_id: str, accept: str) -> None:
    response = client.get(f"/audits/{audit_id}/report", headers={"Accept": accept})
    assert (response.status_code, response.json()["type"]) == (406, "/problems/not-acceptable")


@pytest.mark.parametrize("status", [AuditStatus.QUEUED, AuditStatus.RUNNING, AuditStatus.CANCELLING])
@pytest.mark.parametrize("headers", [{}, HTML])
def test_report_of_an_audit_under_way_is_not_ready(
    client: TestClient, engine: Engine, status: AuditStatus, headers: dict[str, str]
) -> None:
    audit_id = add_audit(engine, status=status)
    response = client.get(f"/audits/{audit_id}/report", headers=headers)
    assert (response.status_code, response.json()["type"]) == (409, "/problems/report-not-ready")


@pytest.mark.parametrize("status", [AuditStatus.FAILED, AuditStatus.CANCELLED, AuditStatus.EXPIRED])
def test_audit_that_ended_without_a_report_has_none(
    client: TestClient, engine: Engine, status: AuditStatus
) -> None:
    audit_id = add_audit(engine, status=status, error="weights are not finite")
    problem = client.get(f"/audits/{audit_id}/report").json()
    assert (problem["status"], problem["type"]) == (404, "/problems/no-report")
    assert "weights are not finite" in problem["detail"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"<script>")])
def test_damaged_page_is_not_shown(client: TestClient, audit_id: str, tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    damage(next((tmp_path / "artifacts").rglob("*.html")))
    response = client.get(f"/audits/{audit_id}/report", headers=HTML)
    assert (response.status_code, response.json()["type"]) == (500, "/problems/report-page-damaged")
    assert client.get(f"/audits/{audit_id}/report").json() == REPORT


def test_page_in_a_store_that_is_away_can_be_asked_for_again(
    client: TestClient, audit_id: str, tmp_path: Path
) -> None:
    page = next((tmp_path / "artifacts").rglob("*.html"))
    page.unlink()
    page.mkdir()  # reading it fails, and not because it is missing
    response = client.get(f"/audits/{audit_id}/report", headers=HTML)
    assert (response.status_code, response.json()["type"]) == (503, "/problems/service-unavailable")
