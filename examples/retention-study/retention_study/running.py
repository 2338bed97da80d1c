"""Runs the audits through the service, a few at a time, and keeps what they found."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from retention_study import RESULTS
from retention_study.parts import is_single
from retention_study.results import KeptReport, KeptSingle, is_there, kept_report, save
from retention_study.singles import kept_single
from services.cli.audit_run import unsuccessful
from services.cli.client import HoldfastClient
from services.cli.embedded import EmbeddedService, service_environment, worker_command
from services.cli.errors import HoldfastError
from services.cli.processes import Command, Processes
from services.cli.signals import Interrupted, StopSignals
from services.cli.wording import duration, time_left
from shared.settings import Settings
from shared.states import AuditStatus
from shared.views import AuditView

LOOK_SECONDS = 2.0
TELL_SECONDS = 30.0


@dataclass
class Submitted:
    """An audit that has not ended."""

    audit_id: str
    request: Mapping[str, Any]
    began: float = field(default_factory=time.monotonic)


class Run:
    """Takes requests through one service, at most `at_once` at a time.

    failed: the parts whose audits ended without a report.
    """

    def __init__(
        self, client: HoldfastClient, console: Console, results: Path, *, at_once: int, parts: int
    ) -> None:
        self._client = client
        self._console = console
        self._results = results
        self._at_once = at_once
        self._parts = parts
        self._ended = 0
        self._told = time.monotonic()
        self._submitted: dict[str, Submitted] = {}
        self.failed: list[str] = []

    def submit(self, part: str, request: Mapping[str, Any]) -> None:
        """Submit the audit of a part."""
        self._submitted[part] = Submitted(self._client.submit(request).id, request)

    @property
    def is_full(self) -> bool:
        """Whether as many audits are under way as may be."""
        return len(self._submitted) >= self._at_once

    @property
    def is_idle(self) -> bool:
        """Whether none is."""
        return not self._submitted

    def look(self) -> None:
        """See to every audit under way: keep what has been found, tell how the others stand."""
        tell = time.monotonic() - self._told > TELL_SECONDS
        for part, submitted in list(self._submitted.items()):
            view = self._client.get(submitted.audit_id)
            if view.status.is_terminal:
                del self._submitted[part]
                self._end(part, submitted, view)
            elif tell:
                self._told = time.monotonic()
                left = time_left(view.seconds_left)
                self._console.print(f"{part}: {view.progress:.0%} {left}", style="dim", soft_wrap=True)

    def cancel(self) -> None:
        """Ask for all that is under way to be stopped; what its steps found is kept by the service."""
        for submitted in self._submitted.values():
            with suppress(HoldfastError):  # the service is stopped in any case
                self._client.cancel(submitted.audit_id)

    def _end(self, part: str, submitted: Submitted, view: AuditView) -> None:
        self._ended += 1
        place = f"[{self._ended}/{self._parts}] {part}:"
        if view.status is not AuditStatus.SUCCEEDED:
            self.failed.append(part)
            self._console.print(f"{place} {unsuccessful(view)}", style="red", markup=False, soft_wrap=True)
            return
        save(outcome(self._client, part, submitted), self._results)
        took = duration(time.monotonic() - submitted.began)
        self._console.print(f"{place} {took}", markup=False, soft_wrap=True)


def outcome(client: HoldfastClient, part: str, submitted: Submitted) -> KeptReport | KeptSingle:
    """What is kept of an audit that has succeeded."""
    report = client.report(submitted.audit_id)
    if not is_single(part):
        return kept_report(part, submitted.request, report)
    rows = client.results(submitted.audit_id, probe_kind="rewrite", every_step="true")
    return kept_single(part, submitted.request, report, list(rows))


def run(
    requests: Mapping[str, Mapping[str, Any]],
    signals: StopSignals,
    console: Console,
    *,
    data: Path,
    workers: int,
    results: Path = RESULTS,
) -> list[str]:
    """Run every request, by part, of which there are no results yet; the parts that failed.

    data: the service's own directory, in which identical steps are found again. A stop signal cancels
    what is under way: what was computed is found again as well.
    """
    pending = [(part, request) for part, request in requests.items() if not is_there(part, request, results)]
    console.print(
        f"{len(requests) - len(pending)} of {len(requests)} audits are there already", soft_wrap=True
    )
    if not pending:
        return []
    with service(data, signals, workers) as (embedded, client):
        run = Run(client, console, results, at_once=workers, parts=len(pending))
        try:
            while pending or not run.is_idle:
                while pending and not run.is_full:
                    run.submit(*pending.pop(0))
                time.sleep(LOOK_SECONDS)
                embedded.check()
                run.look()
        except Interrupted:
            signals.deferred = True
            console.print("Stopping; the next run goes on from here.")
            run.cancel()
            raise
        return run.failed


@contextmanager
def service(
    data: Path, signals: StopSignals, workers: int
) -> Iterator[tuple[EmbeddedService, HoldfastClient]]:
    """The service on one data directory with so many workers, each computing on one thread.

    A model this small gains little from a second thread, while two workers are twice as fast.
    """
    os.environ.setdefault("HOLDFAST_THREADS", "1")
    token = secrets.token_urlsafe()
    with EmbeddedService(data, signals, tokens={"retention-study": token}) as embedded:
        directory = data.expanduser().resolve()
        environment = service_environment(os.environ, directory, None)
        more = Processes(directory, environment, grace_seconds=Settings().stop_seconds)
        try:
            for number in range(2, workers + 1):
                more.start(Command(f"worker-{number}", worker_command()))
            with HoldfastClient(embedded.url, token) as client:
                yield embedded, client
        finally:
            more.stop(impatient=lambda: signals.repeated)
