"""Claims audits and has a child work on them; renews the lease meanwhile, and carries out what ends it.

When the lease could not be renewed in time (the database is away, or this process stood still), the child
is told to pause where it next shows progress, until the lease has been renewed; it is killed when somebody
else has ended the attempt, for then somebody else may be at the same step.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from services.worker.child import Child, Sign
from services.worker.draining import is_draining
from services.worker.heartbeat import beat
from services.worker.orders import LEASE_LOST_STATUS, Order
from services.worker.steps.content_keys import code_version
from shared.claims import claim
from shared.leases import Lease, LeaseLost, fenced, renew
from shared.patience import is_away, patiently
from shared.recovery import hand_over, lose
from shared.settings import Settings
from shared.states import AuditStatus, Cause

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
EXIT_SECONDS = 5.0  # from closing its output to being gone, for a child that ends by itself
IDLE_SECONDS = 30.0  # several starts of a child, so that workers kept waiting do not start one in turns
IDLE_LOOK_SECONDS = 0.25


def drain_queue(engine: Engine, settings: Settings, worker: str, shutting_down: threading.Event) -> None:
    """Claim and supervise audits until nothing can be claimed or the worker is asked to stop.

    One child serves them one after another, for as long as all goes well: libraries are imported once,
    and a model that the next audit shares stays loaded. It is kept for a while when nothing can be claimed:
    what waits is often kept waiting by an identical step that another worker is about to end.
    """
    child: Child | None = None
    losses = 0  # children in a row that died at their work
    served_at = 0.0  # monotonic; when the child had last done something
    try:
        while not shutting_down.is_set() and not is_draining(settings):
            lease = claim(engine, worker, settings.lease_seconds, code_version())
            if lease is None:
                if child is None or time.monotonic() - served_at > IDLE_SECONDS:
                    return
                shutting_down.wait(IDLE_LOOK_SECONDS)
                continue
            try:
                child = usable_child(child)
            except OSError as error:
                log.warning("no child could be started: %s", error)
                child = None
                give_up(engine, lease, "its worker could not start a process")
                losses += 2
            else:
                supervision = Supervision(child, engine, settings, lease, shutting_down)
                if not supervision.run():
                    child = None
                losses = losses + 1 if supervision.lost_its_child else 0
                served_at = time.monotonic()
            if losses > 1:  # it may be this machine; let another one try what waits
                shutting_down.wait(min(settings.retry_wait_seconds, settings.lease_seconds / 2))
    finally:
        if child is not None:
            child.end()


def usable_child(child: Child | None) -> Child:
    """The child, or another in its place if it ended while it had nothing to do."""
    if child is not None and not child.has_ended():
        return child
    if child is not None:
        child.end()
    return Child()


def give_up(engine: Engine, lease: Lease, why: str) -> None:
    """Hand over what was claimed and not begun."""
    with fenced(engine, lease) as session:
        hand_over(session, lease, why)


@dataclass
class Supervision:
    """One attempt, from its claim to its end. On return it has ended, or somebody else has ended it."""

    child: Child
    engine: Engine
    settings: Settings
    lease: Lease
    shutting_down: threading.Event
    asked: str | None = None  # why the child was told to stop, if it was
    lost_its_child: bool = False
    silent_seconds: float = 0.0
    last_outage_at: float = -math.inf  # monotonic; when the database last did not answer
    terminate_at: float | None = None
    kill_at: float | None = None
    draining: bool = False

    def run(self) -> bool:
        """Hand the lease over and watch; return whether the child can be handed another."""
        self.child.hand(self.lease)
        try:
            sign = self._watch()
        except LeaseLost as lost:
            log.warning("%s", lost)
            self.child.end()
            return False
        if sign is Sign.LEFT and not self.child_is_leaving:
            return True
        if sign is Sign.LEFT:
            self.child.end()
        else:
            self._give_back(self.child.end(EXIT_SECONDS))
        return False

    @property
    def child_is_leaving(self) -> bool:
        """Whether the child was told anything that it will not forget."""
        return self.draining or self.asked is not None

    def _watch(self) -> Sign:
        """Heartbeat until the child has left the audit or ended.

        Raises:
            LeaseLost: somebody else has ended the attempt.
        """
        renewed_at = time.monotonic()
        while (sign := self.child.wait(self._next_look())) is Sign.AT_WORK:
            self._press_on()
            if self.shutting_down.is_set() and self.asked is None:
                self._ask_to_hand_over()
            now = time.monotonic()
            if now - renewed_at > self.lease.seconds:
                self.child.pause()
            if now - renewed_at >= self.settings.heartbeat_seconds and self._renewed():
                renewed_at = now
                self.child.resume()
        return sign

    def _next_look(self) -> float:
        """Seconds until the child must be looked at again."""
        due = [at - time.monotonic() for at in (self.terminate_at, self.kill_at) if at is not None]
        return max(0.0, min([LOOK_SECONDS, self.settings.heartbeat_seconds, *due]))

    def _renewed(self) -> bool:
        """Renew the lease, and act on what has become of the audit; whether the database answered."""
        try:
            heartbeat = renew(self.engine, self.lease)
        except DBAPIError as error:
            if not is_away(error):
                raise
            log.warning("could not renew the lease: %s", error.orig)
            self.last_outage_at = time.monotonic()
            return False
        beat(self.settings, f"audit {self.lease.audit_id}")
        if heartbeat.status is AuditStatus.CANCELLING and self.asked != "cancelled":
            self.asked = "cancelled"
            self._terminate()
        elif self._is_silent(heartbeat.silent_seconds):
            self.silent_seconds = heartbeat.silent_seconds
            self.child.kill()
        elif is_draining(self.settings) and not self.child_is_leaving:
            self.draining = True
            self.child.order(Order.FINISH)
        return True

    def _is_silent(self, seconds: float) -> bool:
        """Whether a child has shown nothing for too long, times when nobody could write left out."""
        since_outage = time.monotonic() - self.last_outage_at
        return min(seconds, since_outage) > self.settings.silence_seconds

    def _ask_to_hand_over(self) -> None:
        self.asked = "its worker was stopped"
        self.child.order(Order.HAND_OVER)
        self.terminate_at = time.monotonic() + self.settings.handover_seconds

    def _terminate(self) -> None:
        self.child.terminate()
        self.terminate_at = None
        self.kill_at = time.monotonic() + self.settings.cancel_grace_seconds

    def _press_on(self) -> None:
        """Take the next step towards ending a child that was asked and has not ended."""
        now = time.monotonic()
        if self.terminate_at is not None and now >= self.terminate_at:
            self._terminate()
        if self.kill_at is not None and now >= self.kill_at:
            self.child.kill()
            self.kill_at = None

    def _give_back(self, status: int) -> None:
        """End the attempt that the child left open, and say why."""

        def end(session: Session) -> None:
            if self.asked is not None or status == LEASE_LOST_STATUS:
                hand_over(session, self.lease, self.asked or "the audit is being ended")
                return
            self.lost_its_child = True
            cause, error = self._death(status)
            lose(
                session,
                self.lease,
                max_deaths=self.settings.max_step_attempts,
                cause=cause,
                error=error,
            )

        def end_fenced() -> None:
            with fenced(self.engine, self.lease) as session:
                end(session)

        try:
            patiently(end_fenced, for_seconds=self.lease.seconds)
        except LeaseLost as lost:  # the child ended it, or the reaper
            log.info("%s", lost)
        except DBAPIError as error:
            log.warning("the reaper must end the attempt: %s", error.orig)

    def _death(self, status: int) -> tuple[Cause, str]:
        if self.silent_seconds:
            return Cause.TIMEOUT, f"showed no progress for {self.silent_seconds:.0f} seconds"
        if status >= 0:
            return Cause.INFRASTRUCTURE, f"the worker's child exited with status {status}"
        name = signal.Signals(-status).name
        hint = " (as the kernel does when memory runs out)" if -status == signal.SIGKILL else ""
        return Cause.INFRASTRUCTURE, f"the worker's child was killed by {name}{hint}"
