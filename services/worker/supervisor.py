"""Owns the lease of one audit: spawns the child that does the work, renews the lease, carries out a cancel.

The child gets the lease on its standard input, which then stays open: its end-of-file tells the
child that the supervisor is gone. The child leads a process group of its own, so that nothing it
started outlives it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError
from sqlmodel import col

from services.worker.health import beat
from shared.database import reading
from shared.leases import Lease, LeaseLost, claim_audit, fenced, renew, return_to_queue
from shared.settings import Settings
from shared.states import AuditStatus, Cause
from shared.tables import Attempt

log = logging.getLogger(__name__)

CHILD_COMMAND = (sys.executable, "-m", "services.worker.runner")
CHILD_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA does not repeat its sums
    # glibc hands large blocks back at once and gets them back page by page; keeping them halves the
    # time of sampling text on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def drain_queue(engine: Engine, settings: Settings, worker: str, shutting_down: threading.Event) -> None:
    """Claim and supervise audits until none is queued or the worker is asked to stop."""
    while not shutting_down.is_set():
        lease = claim_audit(engine, worker, settings.lease_seconds)
        if lease is None:
            return
        supervise(engine, settings, lease, shutting_down)


def supervise(engine: Engine, settings: Settings, lease: Lease, shutting_down: threading.Event) -> None:
    """Run the child for one attempt; on return no process of it is left and the attempt has ended.

    Unless the lease was lost: then somebody else has ended it.
    """
    child = subprocess.Popen(  # noqa: S603
        CHILD_COMMAND,
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=CHILD_ENVIRONMENT | os.environ,
    )
    try:
        _hand_lease_over(child, lease)
        asked_to_stop = _watch(child, engine, settings, lease, shutting_down)
    except LeaseLost as lost:
        if not _has_ended(engine, lease):
            log.warning("%s", lost)
        return
    finally:
        _kill_group(child)
    if child.returncode != 0:
        _give_back(engine, settings, lease, child.returncode, asked_to_stop)


def _hand_lease_over(child: subprocess.Popen[bytes], lease: Lease) -> None:
    assert child.stdin is not None  # noqa: S101 (it was opened as a pipe)
    try:
        child.stdin.write(json.dumps(asdict(lease)).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        log.warning("the child ended before it read its lease")


def _watch(
    child: subprocess.Popen[bytes],
    engine: Engine,
    settings: Settings,
    lease: Lease,
    shutting_down: threading.Event,
) -> bool:
    """Heartbeat until the child ends; return whether it was asked to stop.

    Raises:
        LeaseLost: the lease ran out, or could not be renewed before it must have run out.
    """
    renewed_at = time.monotonic()
    kill_at: float | None = None
    while True:
        try:
            child.wait(timeout=_next_look(settings, shutting_down, kill_at))
            return kill_at is not None
        except subprocess.TimeoutExpired:
            pass
        if kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(child, signal.SIGKILL)
            continue
        if time.monotonic() - renewed_at < settings.heartbeat_seconds and not shutting_down.is_set():
            continue
        status: AuditStatus | None = None
        try:
            status = renew(engine, lease)
            renewed_at = time.monotonic()
            beat(settings)
        except OperationalError as error:  # the database is away; our lease may still hold
            log.warning("could not renew the lease: %s", error.orig)
            if time.monotonic() - renewed_at > lease.seconds:
                raise LeaseLost("the lease could not be renewed in time") from error
        if kill_at is None and (status is AuditStatus.CANCELLING or shutting_down.is_set()):
            _signal_group(child, signal.SIGTERM)
            kill_at = time.monotonic() + settings.cancel_grace_seconds


def _has_ended(engine: Engine, lease: Lease) -> bool:
    """Whether the child itself ended the attempt, and was only about to exit."""
    with reading(engine) as session:
        attempt = session.get_one(Attempt, lease.attempt_id)
        return attempt.lease_token == lease.token and attempt.ended_at is not None and attempt.error is None


def _next_look(settings: Settings, shutting_down: threading.Event, kill_at: float | None) -> float:
    """Seconds until the child must be looked at again."""
    if kill_at is not None:
        return max(0.0, min(settings.heartbeat_seconds, kill_at - time.monotonic()))
    return 0.0 if shutting_down.is_set() else min(1.0, settings.heartbeat_seconds)


def _give_back(
    engine: Engine, settings: Settings, lease: Lease, return_code: int, asked_to_stop: bool
) -> None:
    """Return what the child left unfinished to the queue, with the cause of its end."""
    max_deaths: int | None = settings.max_step_attempts
    cause: Cause | None = Cause.INFRASTRUCTURE
    error = _death(return_code)
    if asked_to_stop:
        max_deaths, cause, error = None, None, "stopped as asked"
    try:
        with fenced(engine, lease) as session:
            attempt = session.execute(select(Attempt).where(col(Attempt.id) == lease.attempt_id)).scalar_one()
            return_to_queue(session, attempt, max_deaths, cause, error)
    except LeaseLost as lost:
        log.warning("%s", lost)


def _death(return_code: int) -> str:
    if return_code >= 0:
        return f"the worker's child exited with status {return_code}"
    return f"the worker's child was killed by {signal.Signals(-return_code).name}"


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        log.debug("the child had ended already")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the child's process group behind, and reap it."""
    _signal_group(child, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()
