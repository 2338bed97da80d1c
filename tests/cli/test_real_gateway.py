"""Client and commands against the real gateway; a stand-in worker leaves every audit in the queue."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from services.cli.client import HoldfastClient
from services.cli.embedded import Commands, EmbeddedService
from services.cli.errors import HoldfastError
from services.cli.signals import StopSignals
from shared.states import AuditStatus
from tests.cli import stand_ins

PATIENCE_SECONDS = 120.0
COMMANDS = replace(Commands(), worker=stand_ins.COMMANDS.worker)
REQUEST = """{
  "model": "builtin:almanac",
  "edits": [
    {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome", "target_true": "Paris"}
  ],
  "editors": [{"name": "memit"}],
  "recipes": [
    {"name": "english", "objective": "causal_lm", "data": {"source": "builtin:docstrings"}}
  ]
}"""
HOLDFAST = """
import sys
from functools import partial
from services.cli import audit_run, main
from tests.cli.test_real_gateway import COMMANDS
audit_run.EmbeddedService = partial(audit_run.EmbeddedService, commands=COMMANDS)
main.app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("service")
    with EmbeddedService(directory, StopSignals(), tokens={}, commands=COMMANDS) as service:
        yield service.url


@pytest.fixture
def client(url: str) -> Iterator[HoldfastClient]:
    with HoldfastClient(url) as client:
        yield client


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    file = tmp_path / "audit.json"
    file.write_text(REQUEST)
    return file


def test_submitted_audit_waits_in_the_queue(client: HoldfastClient) -> None:
    submitted = client.submit(json.loads(REQUEST))

    assert client.get(submitted.id).status is AuditStatus.QUEUED


def test_cancelled_audit_is_shown_as_cancelled(client: HoldfastClient) -> None:
    submitted = client.submit(json.loads(REQUEST))

    assert client.cancel(submitted.id).status is AuditStatus.CANCELLED


def test_ended_audit_is_done_again(client: HoldfastClient) -> None:
    ended = client.cancel(client.submit(json.loads(REQUEST)).id)

    again = client.retry(ended.id, from_scratch=True)

    assert (again.status, again.retry_of, again.from_scratch) == (AuditStatus.QUEUED, ended.id, True)


def test_audit_that_waits_is_not_done_again(client: HoldfastClient) -> None:
    submitted = client.submit(json.loads(REQUEST))

    with pytest.raises(HoldfastError) as caught:
        client.retry(submitted.id)
    assert caught.value.status == 409


def test_events_start_with_the_submission(client: HoldfastClient) -> None:
    submitted = client.submit(json.loads(REQUEST))

    assert [event.kind for event in client.events(submitted.id)] == ["audit.submitted"]


def test_audit_without_scores_has_no_results(client: HoldfastClient) -> None:
    submitted = client.submit(json.loads(REQUEST))

    assert list(client.results(submitted.id)) == []


def test_report_before_its_time_is_refused(client: HoldfastClient) -> None:
    submitted = client.submit(json.loads(REQUEST))

    with pytest.raises(HoldfastError) as caught:
        client.report(submitted.id)
    assert caught.value.status == 409


def test_unknown_audit_is_not_found(client: HoldfastClient) -> None:
    with pytest.raises(HoldfastError) as caught:
        client.get("0" * 32)
    assert caught.value.status == 404


def test_request_at_fault_is_refused_with_its_fields(client: HoldfastClient) -> None:
    with pytest.raises(HoldfastError) as caught:
        client.submit({**json.loads(REQUEST), "seeds": [-1]})
    assert [field.pointer for field in caught.value.fields] == ["/seeds/0"]


def test_ctrl_c_leaves_an_audit_elsewhere_running_and_says_how_to_look_at_it(
    client: HoldfastClient, request_file: Path
) -> None:
    audit = start_holdfast("audit", str(request_file), "--url", client.url)
    wait_for_line(audit, "waiting for a worker")

    audit.send_signal(signal.SIGINT)

    _, messages = audit.communicate(timeout=PATIENCE_SECONDS)
    audit_id = messages.split("'holdfast report ")[1].split()[0]
    assert audit.returncode == 130
    assert client.get(audit_id).status is AuditStatus.QUEUED


def test_ctrl_c_stops_an_embedded_audit_and_its_service(request_file: Path, tmp_path: Path) -> None:
    audit = start_holdfast("audit", str(request_file), "--data", str(tmp_path / "data"))
    wait_for_line(audit, "waiting for a worker")
    family = psutil.Process(audit.pid).children(recursive=True)

    audit.send_signal(signal.SIGINT)

    _, messages = audit.communicate(timeout=PATIENCE_SECONDS)
    assert audit.returncode == 130
    assert "Stopped by SIGINT." in messages
    assert psutil.wait_procs(family, timeout=PATIENCE_SECONDS)[1] == []


def start_holdfast(*arguments: str) -> subprocess.Popen[str]:
    """The command, with the worker of COMMANDS where it starts one."""
    command = [sys.executable, "-c", HOLDFAST, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen[str], start: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(start):
            return
    raise AssertionError(f"it ended without a line '{start}'")
