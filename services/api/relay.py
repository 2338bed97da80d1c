"""The gateway's background thread: returns lost work to the queue and sends wake-ups to the broker."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from services.api.rounds import Rounds
from shared.broker import create_celery, send_wake_up
from shared.outbox import relay
from shared.recovery import expire_overdue, finish_cancels, reap_expired, repeat_unheard_wake_ups
from shared.settings import Settings

log = logging.getLogger(__name__)

Send = Callable[[str, str], None]


class Relay(Rounds):
    """Runs a round every `reconcile_seconds`, and at once when told of new work.

    Nothing that goes wrong ends it: accepting audits depends neither on it nor on the broker.
    """

    def __init__(
        self, engine: Engine, settings: Settings, send: Send, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._send = send
        self._clock = clock
        self._reap_from = -math.inf
        super().__init__("relay", self.run_round, settings.reconcile_seconds)

    def start(self) -> None:
        """Begin; the database may have been away until now."""
        self._spare_the_living()
        super().start()

    def run_round(self) -> None:
        """Look once for what was lost, what is overdue and what is to be sent."""
        for task in (self._reap, self._end_overdue, self._repeat, self._relay):
            try:
                task()
            except Exception as error:
                log.exception("the relay goes on after an error")
                if isinstance(error, DBAPIError):
                    self._spare_the_living()

    def _spare_the_living(self) -> None:
        """While the database was away nobody could renew a lease: give every worker the time to."""
        self._reap_from = self._clock() + self._settings.lease_seconds

    def _reap(self) -> None:
        if self._clock() < self._reap_from:
            return
        for audit_id in reap_expired(self._engine, self._settings.max_step_attempts):
            log.warning("audit %s lost a worker", audit_id)

    def _end_overdue(self) -> None:
        for audit_id in finish_cancels(self._engine, self._settings.cancel_deadline_seconds):
            log.warning("audit %s was cancelled without its workers", audit_id)
        for audit_id in expire_overdue(self._engine):
            log.warning("audit %s has expired", audit_id)

    def _repeat(self) -> None:
        repeat_unheard_wake_ups(self._engine, 2 * self._settings.reconcile_seconds)

    def _relay(self) -> None:
        relay(self._engine, self._send)


def broker_sender(settings: Settings) -> Send:
    """Sends wake-ups through Celery."""
    celery = create_celery(settings)

    def send(_kind: str, audit_id: str) -> None:
        send_wake_up(celery, audit_id)

    return send
