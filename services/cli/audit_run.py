"""An audit from its request to its verdict, on a service that is there or on one started for it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from services.cli.client import HoldfastClient
from services.cli.consoles import message_console
from services.cli.embedded import EmbeddedService
from services.cli.errors import AuditUnsuccessful, HoldfastError, ServiceUnreachable
from services.cli.progress import audit_display
from services.cli.report_files import fetch_report
from services.cli.signals import Interrupted, StopSignals
from shared.states import AuditStatus, Verdict
from shared.views import AuditView


def audit_elsewhere(client: HoldfastClient, request: Any, out: Path, *, as_json: bool) -> Verdict:
    """Run an audit on a service that is there already; a stop signal leaves it running.

    Raises:
        HoldfastError: the service refused or was not reached, or the audit ended without a report.
    """
    messages = message_console()
    audit_id = client.submit(request).id
    messages.print(f"audit {audit_id} at {client.url}", soft_wrap=True)
    try:
        follow(client, audit_id)
    except (Interrupted, ServiceUnreachable):
        messages.print(
            f"The audit goes on. Look at it with 'holdfast report {audit_id} --url {client.url}',"
            f" stop it with 'holdfast cancel {audit_id} --url {client.url}'.",
            soft_wrap=True,
        )
        raise
    return fetch_report(client, audit_id, out, as_json=as_json)


def audit_embedded(
    data: Path | None, signals: StopSignals, request: Any, out: Path, *, as_json: bool
) -> Verdict:
    """Run an audit on a service started for it alone; a stop signal cancels it and stops the service.

    Raises:
        HoldfastError: as in `audit_elsewhere`, or the service did not start or did not last.
    """
    messages = message_console()
    token = secrets.token_urlsafe()
    with directory_for(data) as directory:
        messages.print("starting the service", style="dim")
        with (
            EmbeddedService(directory, signals, tokens={"holdfast": token}) as service,
            HoldfastClient(service.url, token) as client,
        ):
            audit_id = client.submit(request).id
            try:
                follow(client, audit_id, check=service.check)
            except Interrupted:
                signals.deferred = True
                messages.print("Stopping the audit and the service; once more ends them at once.")
                with suppress(HoldfastError):  # the service stops in any case
                    client.cancel(audit_id)
                if data is not None:
                    messages.print(f"Finished steps are kept in {data}; the next audit there reuses them.")
                raise
            return fetch_report(client, audit_id, out, as_json=as_json)


def follow(client: HoldfastClient, audit_id: str, check: Callable[[], None] = lambda: None) -> None:
    """Show an audit until it has ended.

    check: called at every look; raises when going on is pointless.

    Raises:
        AuditUnsuccessful: the audit ended without a report.
    """
    told = 0
    with audit_display(message_console()) as display:
        for view in client.follow(audit_id, check=check):
            events = list(client.events(audit_id, after=told))
            told = max((event.sequence for event in events), default=told)
            display.update(view, events)
    if view.status is not AuditStatus.SUCCEEDED:
        raise unsuccessful(view)


def unsuccessful(view: AuditView) -> AuditUnsuccessful:
    """The error that says how an audit without a report ended."""
    cause = f" (cause: {view.cause})" if view.cause else ""
    detail = view.error or "\n".join(f"{step.title}: {step.error}" for step in view.steps if step.error)
    return AuditUnsuccessful(f"Audit {view.id} {view.status}{cause}", detail)


@contextmanager
def directory_for(data: Path | None) -> Iterator[Path]:
    """The data directory asked for, or one that goes when it is no longer needed."""
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-") as directory:
        yield Path(directory)
