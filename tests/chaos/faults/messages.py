"""What goes wrong with the broker and the messages that it carries."""

from __future__ import annotations

from dataclasses import dataclass

import redis
from kombu.exceptions import OperationalError as BrokerError

from shared.broker import send_wake_up
from shared.tables import new_id
from tests.chaos.faults.fault import Fault, Hit, NothingToHit, Scene


@dataclass
class WipeBroker(Fault):
    """The broker forgets every message."""

    kind = "wipe_broker"

    def strike(self, scene: Scene) -> None:
        """Delete what it holds."""
        if scene.deployment.servers.redis:
            try:
                scene.deployment.servers.redis.flush()
            except redis.RedisError:
                return  # it is away, and will have forgotten all
        for message in (scene.deployment.directory / "broker").rglob("*.msg"):
            message.unlink(missing_ok=True)


@dataclass
class StopBroker(Fault):
    """The broker is away, and comes back empty."""

    kind = "stop_broker"

    def aim(self, scene: Scene) -> Hit:
        """The broker, if it is a server and there."""
        if scene.deployment.servers.redis is None:
            raise NothingToHit
        self._server = scene.deployment.servers.redis.kept
        return self.take("broker", scene)

    def strike(self, scene: Scene) -> None:
        """Stop it."""
        self._server.stop()

    def heal(self, scene: Scene) -> None:
        """Start it."""
        self._server.start()
        scene.away.discard("broker")


@dataclass
class StrayWakeUps(Fault):
    """Wake-ups that nobody asked for: doubled ones, ones for audits nobody knows, and late ones."""

    kind = "stray_wake_ups"

    def aim(self, scene: Scene) -> Hit:
        """Nobody is hit: a wake-up is a hint."""
        return Hit()

    def strike(self, scene: Scene) -> None:
        """Repeat every wake-up there was."""
        self._audits = scene.audits()
        known = [("duplicated", audit) for audit in self._audits[-5:] * 2]
        self._send(scene, [*known, ("unknown", new_id())])

    def heal(self, scene: Scene) -> None:
        """Send them once more, now that more of the audits have ended."""
        self._send(scene, [("delayed", audit) for audit in self._audits[-10:]])

    def _send(self, scene: Scene, wake_ups: list[tuple[str, str]]) -> None:
        celery = scene.deployment.celery()
        for kind, audit in wake_ups:
            try:
                send_wake_up(celery, audit)
            except (BrokerError, redis.RedisError):
                return  # the broker is away
            scene.log.add("delivery", kind=kind, audit=audit)
