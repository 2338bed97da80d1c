"""Sends wake-ups to the broker, in a thread of its own: a broker that hangs holds up nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Engine

from services.api.rounds import Rounds
from shared.broker import create_celery, send_wake_up
from shared.outbox import relay
from shared.settings import Settings

log = logging.getLogger(__name__)

Send = Callable[[str, str], None]


class Relay(Rounds):
    """Runs a round every `reconcile_seconds`, and at once when told of new work.

    Nothing that goes wrong ends it: accepting audits depends neither on it nor on the broker.
    """

    def __init__(self, engine: Engine, settings: Settings, send: Send) -> None:
        self._engine = engine
        self._send = send
        super().__init__("relay", self.run_round, settings.reconcile_seconds)

    def run_round(self) -> None:
        """Send what is to be sent."""
        try:
            relay(self._engine, self._send)
        except Exception:
            log.exception("the relay goes on after an error")


def broker_sender(settings: Settings) -> Send:
    """Sends wake-ups through Celery."""
    celery = create_celery(settings)

    def send(_kind: str, audit_id: str) -> None:
        send_wake_up(celery, audit_id)

    return send
