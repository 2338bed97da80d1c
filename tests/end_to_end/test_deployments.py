"""An audit over REST, from submission to report, in both deployments."""

from __future__ import annotations

import csv
import io
import time

import httpx
import psutil

from shared.measurement import TUNED, Mode
from shared.states import AuditStatus, StepKind, StepStatus
from shared.views import AuditView
from tests.end_to_end.conftest import Deployment
from tests.support.parity_audit import parity_request

END_SECONDS = 240.0
MEASURED = {"prompt", "answer", "right", "log_prob_answer", "log_prob_alternative", "predicted_token"}


def follow_to_the_end(deployment: Deployment, audit_id: str) -> AuditView:
    deadline = time.monotonic() + END_SECONDS
    view = deployment.client.get(audit_id)
    while not view.status.is_terminal:
        assert time.monotonic() < deadline, f"still {view.status}: {view.steps}"
        time.sleep(0.2)
        view = deployment.client.get(audit_id)
    return view


def wait_for_running_tuning(deployment: Deployment, audit_id: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while True:
        for step in deployment.client.get(audit_id).steps:
            if step.kind is StepKind.TUNE and step.status is StepStatus.RUNNING:
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def long_request() -> dict[str, object]:
    """An audit that is still tuning when a test interferes with it."""
    body = parity_request(editors=parity_request()["editors"][1:])
    body["recipes"][0] |= {"steps": 300, "freeze": ["none"]}
    return body


def test_audit_is_accepted_run_and_reported(deployment: Deployment) -> None:
    client = deployment.client
    submitted = client.submit(parity_request(labels={"team": "editors"}))
    view = follow_to_the_end(deployment, submitted.id)
    assert view.status is AuditStatus.SUCCEEDED, view.error
    assert {step.status for step in view.steps} == {StepStatus.SUCCEEDED}

    report = client.report(submitted.id)
    assert report.verdict == view.verdict
    assert report.provenance.model_revision == view.model_revision
    assert "<svg" in client.report_page(submitted.id)

    sequences = [event.sequence for event in client.events(submitted.id)]
    assert sequences == list(range(1, len(sequences) + 1))

    rows = list(client.results(submitted.id))
    assert {row.arm for row in rows} == set(TUNED.arms)
    assert {row.mode for row in rows} == set(Mode)
    told_apart = {tuple(row.model_dump(exclude=MEASURED).values()) for row in rows}
    assert len(told_apart) == len(rows)
    answer = httpx.get(
        f"{client.url}/audits/{submitted.id}/results", headers={"Accept": "text/csv"}, trust_env=False
    )
    assert len(list(csv.DictReader(io.StringIO(answer.text)))) == len(rows)


def test_cancel_stops_a_running_audit_and_its_child(deployment: Deployment) -> None:
    submitted = deployment.client.submit(long_request())
    wait_for_running_tuning(deployment, submitted.id)
    deployment.client.cancel(submitted.id)
    view = follow_to_the_end(deployment, submitted.id)
    assert view.status is AuditStatus.CANCELLED
    assert not children_of_the_worker()


def children_of_the_worker() -> list[psutil.Process]:
    """The model-owning children that this test run's worker has started."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "services.worker.runner" in process.cmdline()
    ]
