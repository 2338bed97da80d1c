"""Audits whose workers are killed, stopped or drained, in both deployments."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil

from services.cli.embedded import worker_command
from services.cli.processes import Command
from shared.states import AuditStatus, StepKind, StepStatus
from shared.views import AuditView, ResultRow
from tests.end_to_end.conftest import Deployment
from tests.end_to_end.test_deployments import (
    children_of_the_worker,
    follow_to_the_end,
    long_request,
    wait_for_running_tuning,
)

WAIT_SECONDS = 60.0


def wait_for_checkpoint(deployment: Deployment, audit_id: str) -> None:
    """Return when a fine-tuning of the audit has gone a good part of its way and has been saved."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for step in deployment.client.get(audit_id).steps:
            if step.kind is StepKind.TUNE and step.status is StepStatus.RUNNING and step.progress > 0.4:
                return
        time.sleep(0.02)
    raise AssertionError("no fine-tuning got that far")


def kinds_of_events(deployment: Deployment, audit_id: str) -> list[str]:
    return [event.kind for event in deployment.client.events(audit_id)]


def measured(deployment: Deployment, audit_id: str) -> list[tuple[Any, ...]]:
    """All that was measured, to the last digit."""
    fields = [field for field in ResultRow.model_fields if field != "step_id"]
    rows = deployment.client.results(audit_id)
    return sorted((tuple(str(getattr(row, field)) for field in fields) for row in rows), key=repr)


def signal_workers(number: signal.Signals) -> None:
    """Send a signal to the Celery processes that this test run has started."""
    for process in psutil.Process().children(recursive=True):
        if "services.worker.app" in process.cmdline() and "services.cli.guardian" not in process.cmdline():
            os.kill(process.pid, number)


def test_tuning_killed_half_way_is_resumed_and_gives_what_an_uninterrupted_one_gives(
    deployment: Deployment,
) -> None:
    interrupted = deployment.client.submit(long_request()).id
    wait_for_checkpoint(deployment, interrupted)
    for child in children_of_the_worker():
        os.kill(child.pid, signal.SIGKILL)
    view = follow_to_the_end(deployment, interrupted)
    assert view.status is AuditStatus.SUCCEEDED, view.error
    assert len(view.attempts) == 2
    assert "SIGKILL" in (view.attempts[0].error or "")
    assert "step.resumed" in kinds_of_events(deployment, interrupted)
    again = deployment.client.retry(interrupted, from_scratch=True).id
    from_scratch = follow_to_the_end(deployment, again)
    assert not any(step.reused for step in from_scratch.steps)
    assert measured(deployment, again) == measured(deployment, interrupted)


def test_worker_that_is_stopped_hands_over_and_another_goes_on(deployment: Deployment) -> None:
    audit_id = deployment.client.submit(long_request()).id
    wait_for_running_tuning(deployment, audit_id)
    signal_workers(signal.SIGTERM)
    wait_until_queued(deployment, audit_id)
    deployment.processes.start(Command("second-worker", worker_command()))
    view = follow_to_the_end(deployment, audit_id)
    assert view.status is AuditStatus.SUCCEEDED, view.error
    assert sum(step.deaths for step in view.steps) == 0
    assert [attempt.cause for attempt in view.attempts] == [None] * len(view.attempts)
    assert "step.handed_over" in kinds_of_events(deployment, audit_id)


def wait_until_queued(deployment: Deployment, audit_id: str) -> AuditView:
    deadline = time.monotonic() + WAIT_SECONDS
    while (view := deployment.client.get(audit_id)).status is not AuditStatus.QUEUED:
        assert time.monotonic() < deadline, view
        time.sleep(0.1)
    return view


def test_worker_that_is_killed_with_its_child_is_missed_and_replaced(deployment: Deployment) -> None:
    audit_id = deployment.client.submit(long_request()).id
    wait_for_running_tuning(deployment, audit_id)
    signal_workers(signal.SIGKILL)
    deployment.processes.start(Command("second-worker", worker_command()))
    view = follow_to_the_end(deployment, audit_id)
    assert view.status is AuditStatus.SUCCEEDED, view.error
    assert "stopped renewing its lease" in (view.attempts[0].error or "")
    assert sum(step.deaths for step in view.steps) == 1


def test_two_workers_are_at_one_audit_together(deployment: Deployment) -> None:
    deployment.processes.start(Command("second-worker", worker_command()))
    audit_id = deployment.client.submit(long_request()).id
    view = follow_to_the_end(deployment, audit_id)
    assert view.status is AuditStatus.SUCCEEDED, view.error
    assert len({attempt.worker for attempt in view.attempts}) == 2
