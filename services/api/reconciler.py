"""Finds what was lost and ends what is overdue, in a thread of the gateway's own."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from services.api.rounds import Rounds
from shared.outbox import repeat_unheard_wake_ups
from shared.recovery import expire_overdue, finish_cancels, reap_expired
from shared.settings import Settings

log = logging.getLogger(__name__)


class Reconciler(Rounds):
    """Runs a round every `reconcile_seconds`. Nothing that goes wrong ends it."""

    def __init__(
        self, engine: Engine, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._reap_from = -math.inf
        super().__init__("reconciler", self.run_round, settings.reconcile_seconds)

    def start(self) -> None:
        """Begin; the database may have been away until now."""
        self._spare_the_living()
        super().start()

    def run_round(self) -> None:
        """Look once for what was lost, what is overdue and what nobody has heard of."""
        for task in (self._finish_cancels, self._expire, self._reap, self._repeat):
            try:
                task()
            except Exception as error:
                log.exception("the reconciler goes on after an error")
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

    def _finish_cancels(self) -> None:
        for audit_id in finish_cancels(self._engine, self._settings.cancel_deadline_seconds):
            log.warning("audit %s was cancelled without its workers", audit_id)

    def _expire(self) -> None:
        for audit_id in expire_overdue(self._engine):
            log.warning("audit %s has expired", audit_id)

    def _repeat(self) -> None:
        repeat_unheard_wake_ups(self._engine, 2 * self._settings.reconcile_seconds)
