"""What a fault is: it aims, strikes, and is healed a while later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from tests.chaos.deployment import Deployment
from tests.chaos.members import Member
from tests.chaos.submitters import Log


class NothingToHit(Exception):
    """What the fault aims at is not there now."""


@dataclass(frozen=True)
class Scene:
    """Where faults happen."""

    deployment: Deployment
    log: Log
    away: set[str] = field(default_factory=set)  # what a fault has taken away, and no other can take

    def worker(self, index: int) -> Member:
        """A worker that runs.

        Raises:
            NothingToHit: it does not.
        """
        member = self.deployment.workers[index % len(self.deployment.workers)]
        if not member.is_running:
            raise NothingToHit
        return member

    def audits(self) -> list[str]:
        """Every audit that was accepted so far."""
        return [record["audit"] for record in self.log.records if record.get("act") == "submit.accepted"]


@dataclass(frozen=True)
class Hit:
    """The workers that a fault hits, and the artifact that it damages, if it does."""

    workers: list[str] = field(default_factory=list)
    target: str | None = None


@dataclass
class Fault(ABC):
    """A fault that lasts `seconds`."""

    seconds: float
    kind: ClassVar[str]

    def aim(self, scene: Scene) -> Hit:
        """What the fault will hit; by default what all workers share.

        Raises:
            NothingToHit: there is no such thing now.
        """
        return Hit(scene.deployment.worker_names)

    def take(self, what: str, scene: Scene) -> Hit:
        """Aim at what all workers share, unless another fault has taken it away."""
        if what in scene.away:
            raise NothingToHit
        scene.away.add(what)
        return Hit(scene.deployment.worker_names)

    @abstractmethod
    def strike(self, scene: Scene) -> None:
        """Begin."""

    def heal(self, scene: Scene) -> None:  # noqa: B027 (most heal by themselves)
        """End."""
