"""The commands against a service that answers as the real one does, from a table of paths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from services.cli import main
from shared.reports import Report
from shared.states import AuditStatus, Cause, StepStatus, Verdict
from shared.views import DeadlinesView, Problem, ProblemField
from tests.cli import reports, views

ID, NEW_ID = "a" * 32, "b" * 32
ANSWERS = {
    ("POST", "/audits"): (202, views.audit(AuditStatus.QUEUED)),
    ("GET", f"/audits/{ID}"): (200, views.audit(AuditStatus.SUCCEEDED, verdict=Verdict.FAIL)),
    ("GET", f"/audits/{ID}/report"): (200, reports.report()),
    ("GET", f"/audits/{ID}/events"): (200, []),
    ("POST", f"/audits/{ID}/retry"): (202, views.audit(AuditStatus.QUEUED, id=NEW_ID, retry_of=ID)),
}
PATHS = dict(zip(("post", "get", "report", "events", "retry"), ANSWERS, strict=True))


received: list[str] = []  # the bodies of all requests, the last one last


@contextmanager
def service(**changed: tuple[int, Any]) -> Iterator[str]:
    """The URL of a service with ANSWERS; `changed` gives the answers to some of PATHS anew."""
    answers = {**ANSWERS, **{PATHS[name]: answer for name, answer in changed.items()}}

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            received.append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
            status, body = answers[(self.command, self.path.partition("?")[0])]
            content = body.model_dump_json() if isinstance(body, BaseModel) else json.dumps(body)
            if self.headers["Accept"] == "text/html":
                content = "<!doctype html>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(
        main.app, [str(one) for one in arguments]
    )


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    file = tmp_path / "audit.json"
    file.write_text("{}")
    return file


def test_audit_writes_the_report_and_shows_its_result(request_file: Path, tmp_path: Path) -> None:
    with service() as url:
        result = run("audit", request_file, "--url", url, "--out", tmp_path / "out")

    assert result.exit_code == 0
    assert Report.model_validate_json((tmp_path / "out/report.json").read_text()) == reports.report()
    assert (tmp_path / "out/report.html").read_text() == "<!doctype html>"
    assert "excess decay" in result.stdout
    assert str(tmp_path / "out/report.html") in result.stdout


def test_json_option_leaves_nothing_but_the_report_on_standard_output(
    request_file: Path, tmp_path: Path
) -> None:
    with service() as url:
        result = run("audit", request_file, "--url", url, "--out", tmp_path, "--json")

    assert Report.model_validate_json(result.stdout) == reports.report()


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict.PASS, 0), (Verdict.FAIL, 3), (Verdict.INCONCLUSIVE, 4)]
)
def test_exit_code_option_tells_the_verdict(
    request_file: Path, tmp_path: Path, verdict: Verdict, status: int
) -> None:
    with service(report=(200, reports.report(verdict=verdict))) as url:
        result = run("audit", request_file, "--url", url, "--out", tmp_path, "--exit-code")

    assert result.exit_code == status


def test_refused_request_is_shown_field_by_field(request_file: Path) -> None:
    problem = Problem(
        type="about:blank",
        title="Invalid request",
        status=422,
        detail="2 fields are at fault.",
        errors=[
            ProblemField(pointer="/edits/0/prompt", detail="needs exactly one {}"),
            ProblemField(pointer="/model", detail="is missing"),
        ],
    )
    with service(post=(422, problem)) as url:
        result = run("audit", request_file, "--url", url)

    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: Invalid request",
        "2 fields are at fault.",
        "  /edits/0/prompt  needs exactly one {}",
        "  /model  is missing",
    ]


def test_failed_audit_is_an_error_with_its_cause_and_reason(request_file: Path) -> None:
    failed = views.audit(AuditStatus.FAILED, cause=Cause.MODEL, error="no GPU memory left")
    with service(get=(200, failed)) as url:
        result = run("audit", request_file, "--url", url)

    assert result.exit_code == 1
    assert f"Error: Audit {ID} failed (cause: model)\nno GPU memory left" in result.stderr


def test_failed_audit_without_a_reason_of_its_own_gives_the_steps_reasons(request_file: Path) -> None:
    step = views.step("1", StepStatus.FAILED, error="loss is not finite")
    with service(get=(200, views.audit(AuditStatus.FAILED, steps=[step]))) as url:
        result = run("audit", request_file, "--url", url)

    assert "step 1: loss is not finite" in result.stderr.splitlines()


def test_cancelled_audit_is_an_error(request_file: Path) -> None:
    with service(get=(200, views.audit(AuditStatus.CANCELLED))) as url:
        result = run("audit", request_file, "--url", url)

    assert result.exit_code == 1
    assert f"Error: Audit {ID} cancelled" in result.stderr


def test_file_that_is_not_json_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text("{")

    result = run("audit", file)

    assert result.exit_code == 1
    assert "is not JSON\nline 1, column 2" in result.stderr


def test_setting_that_makes_no_sense_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LEASE_SECONDS", "soon")

    result = run("serve", "--port", "0", "--data", tmp_path)

    assert result.exit_code == 1
    assert "HOLDFAST_LEASE_SECONDS: Input should be a valid number" in result.stderr


def test_status_shows_state_verdict_and_steps() -> None:
    steps = [views.step("1", StepStatus.SUCCEEDED), views.step("2")]
    view = views.audit(AuditStatus.RUNNING, verdict=Verdict.PASS, progress=0.5, steps=steps)
    with service(get=(200, view)) as url:
        result = run("status", ID, "--url", url)

    assert result.stdout.splitlines() == [
        f"audit {ID}  running  PASS",
        "builtin:almanac, 5 edits, 50 % done",
        "✓ step 1  1 min 05 s",
        "· step 2",
    ]


def test_status_shows_the_workers_at_once_and_why_others_left() -> None:
    attempts = [
        views.attempt(1, ended_at=views.START, cause=Cause.INFRASTRUCTURE, error="worker lost"),
        views.attempt(2, ended_at=views.START),
        views.attempt(3, step="step 1", step_id="1"),
        views.attempt(4),
    ]
    step = views.step("1", StepStatus.RUNNING, deaths=2, seconds_left=65)
    view = views.audit(AuditStatus.RUNNING, attempts=attempts, steps=[step], seconds_left=70)
    with service(get=(200, view)) as url:
        result = run("status", ID, "--url", url)

    assert result.stdout.splitlines()[1:] == [
        "builtin:almanac, 5 edits, 0 % done, about 1 min 10 s left",
        "▶ step 1  about 1 min 05 s left  died 2 times",
        "attempt 1 ended (infrastructure): worker lost",
        "attempt 3: worker host:3 at step 1",
        "attempt 4: worker host:4",
    ]


def test_status_shows_the_place_in_the_queue_and_the_deadline() -> None:
    view = views.audit(
        AuditStatus.QUEUED,
        started_at=None,
        queue_position=3,
        starts_in_seconds=200,
        retry_of="c" * 32,
        from_scratch=True,
        deadlines=DeadlinesView(expires_at=views.START, run_seconds=60),
    )
    with service(get=(200, view)) as url:
        result = run("status", ID, "--url", url)

    assert result.stdout.splitlines()[2:] == [
        "waiting for a worker, number 3 in the queue, starts in about 3 min 20 s",
        "expires at 2026-01-01 00:00 UTC unless it has begun",
        f"does audit {'c' * 32} again, from scratch",
    ]


@pytest.mark.parametrize(("options", "start"), [([], "checkpoint"), (["--from-scratch"], "scratch")])
def test_retry_prints_the_new_audit(options: list[str], start: str) -> None:
    with service() as url:
        result = run("retry", ID, "--url", url, *options)

    assert result.stdout.splitlines() == [NEW_ID]
    assert json.loads(received[-1]) == {"from": start}


def test_retry_that_is_refused_is_an_error() -> None:
    problem = Problem(type="about:blank", title="Audit has not ended", status=409, detail="It is running.")
    with service(retry=(409, problem)) as url:
        result = run("retry", ID, "--url", url)

    assert (result.exit_code, result.stderr.splitlines()) == (
        1,
        ["Error: Audit has not ended", "It is running."],
    )


@pytest.mark.parametrize("command", [["serve", "--port", "0", "--data"], ["worker", "drain", "--data"]])
def test_settings_that_do_not_agree_are_refused(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_HEARTBEAT_SECONDS", "16")

    result = run(*command, tmp_path)

    assert result.exit_code == 1
    assert "Error: HOLDFAST_HEARTBEAT_SECONDS must be at most half of HOLDFAST_LEASE_SECONDS" in result.stderr


def test_worker_does_not_start_with_settings_that_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CANCEL_DEADLINE_SECONDS", "15")

    result = run("worker")

    assert result.exit_code == 1
    assert "Error: HOLDFAST_CANCEL_DEADLINE_SECONDS must be more than" in result.stderr


def test_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").mkdir()
    with service() as url:
        result = run("report", ID, "--url", url, "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "Cannot write the report" in result.stderr


def test_url_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as url:
        monkeypatch.setenv("HOLDFAST_URL", url)
        result = run("status", ID)

    assert result.exit_code == 0


def test_editors_are_listed_with_their_hyperparameters() -> None:
    result = run("editors")

    assert "memit" in result.stdout
    assert "mom2_update_weight" in result.stdout


def test_wrong_command_line_has_a_status_of_its_own() -> None:
    assert run("audit").exit_code == 2
