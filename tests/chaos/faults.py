"""Everything that can go wrong in a chaos run: each fault aims, strikes, and is healed a while later."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psutil
import redis
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import or_, select
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from shared.broker import send_wake_up
from shared.database import reading
from shared.states import StepKind, StepStatus
from shared.tables import Step, new_id
from tests.chaos.deployment import Deployment
from tests.chaos.instrumentation.sitecustomize import CLOCK_VARIABLE
from tests.chaos.members import Member, signal_group
from tests.chaos.submitters import Log

HOUR_SECONDS = 3600
LOCK_SQLITE = """
import signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
signal.pause()
"""


class NothingToHit(Exception):
    """What the fault aims at is not there now."""


@dataclass(frozen=True)
class Scene:
    """Where faults happen."""

    deployment: Deployment
    log: Log
    away: set[str] = field(default_factory=set)  # kinds of faults that are at work and have room for one

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

    def _once(self, scene: Scene) -> Hit:
        """The same as `aim`, unless such a fault is at work."""
        if self.kind in scene.away:
            raise NothingToHit
        scene.away.add(self.kind)
        return Hit(scene.deployment.worker_names)

    @abstractmethod
    def strike(self, scene: Scene) -> None:
        """Begin."""

    def heal(self, scene: Scene) -> None:  # noqa: B027 (most heal by themselves)
        """End."""


@dataclass
class WorkerFault(Fault):
    """A fault of one worker."""

    index: int

    def aim(self, scene: Scene) -> Hit:
        """The worker, if it runs."""
        self._member = scene.worker(self.index)
        return Hit([self._member.worker_name])


@dataclass
class KillChild(WorkerFault):
    """SIGKILL of the process that owns the model, as the kernel does when memory runs out."""

    kind = "kill_child"

    def aim(self, scene: Scene) -> Hit:
        """The worker, if it has a child."""
        hit = super().aim(scene)
        if not self._member.children():
            raise NothingToHit
        return hit

    def strike(self, scene: Scene) -> None:
        """Kill the child and all it started."""
        for child in self._member.children():
            signal_group(child, signal.SIGKILL)


@dataclass
class KillWorker(WorkerFault):
    """SIGKILL of the worker; its child must end by itself. It comes back when the fault is healed."""

    kind = "kill_worker"

    def strike(self, scene: Scene) -> None:
        """Kill the worker alone."""
        scene.deployment.resting.add(self._member.name)
        self._member.signal(signal.SIGKILL)

    def heal(self, scene: Scene) -> None:
        """Let it be started again."""
        scene.deployment.resting.discard(self._member.name)


@dataclass
class KillGateway(Fault):
    """SIGKILL of the gateway, and of the reaper and the relay with it."""

    kind = "kill_gateway"

    def strike(self, scene: Scene) -> None:
        """Kill it."""
        scene.deployment.resting.add(scene.deployment.gateway.name)
        scene.deployment.gateway.signal(signal.SIGKILL)

    def heal(self, scene: Scene) -> None:
        """Let it be started again."""
        scene.deployment.resting.discard(scene.deployment.gateway.name)


@dataclass
class Freeze(WorkerFault):
    """SIGSTOP for longer than a lease, then SIGCONT: a zombie that believes it still has its step."""

    kind = "freeze"
    whom: str

    def strike(self, scene: Scene) -> None:
        """Stop the worker, its child, or both."""
        self._children: list[psutil.Process] = []
        if self.whom != "child":
            self._member.signal(signal.SIGSTOP)
        if self.whom != "worker":
            self._children = self._member.children()
        for child in self._children:
            signal_group(child, signal.SIGSTOP)

    def heal(self, scene: Scene) -> None:
        """Let the child go on first, so that it may write before its supervisor learns what happened."""
        for child in self._children:
            signal_group(child, signal.SIGCONT)
        self._member.signal(signal.SIGCONT)


@dataclass
class TerminateWorker(WorkerFault):
    """SIGTERM, as in a rolling restart: the worker hands over and is started anew."""

    kind = "terminate_worker"

    def strike(self, scene: Scene) -> None:
        """Ask it to end."""
        self._member.signal(signal.SIGTERM)


@dataclass
class DrainWorker(WorkerFault):
    """A drain: the worker ends its step and takes nothing more; then it is restarted."""

    kind = "drain_worker"

    def strike(self, scene: Scene) -> None:
        """Ask it to drain, as an operator does."""
        command = Path(sys.executable).with_name("holdfast"), "worker", "drain", "--no-wait"
        self._asking = subprocess.Popen(
            command,
            env=self._member.environment,
            cwd=self._member.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def heal(self, scene: Scene) -> None:
        """Restart it."""
        self._asking.wait()  # it fails where the worker has just been killed
        self._member.signal(signal.SIGTERM)


@dataclass
class SkewClock(WorkerFault):
    """A worker whose wall clock is `ahead` seconds ahead of everybody else's."""

    kind = "skew_clock"
    ahead: int

    def strike(self, scene: Scene) -> None:
        """Restart the worker with its clock off."""
        self._member.environment[CLOCK_VARIABLE] = str(self.ahead)
        self._member.signal(signal.SIGTERM)

    def heal(self, scene: Scene) -> None:
        """Restart it with its clock right."""
        self._member.environment.pop(CLOCK_VARIABLE, None)
        self._member.signal(signal.SIGTERM)


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
        return self._once(scene)

    def strike(self, scene: Scene) -> None:
        """Stop it."""
        self._server.stop()

    def heal(self, scene: Scene) -> None:
        """Start it."""
        self._server.start()
        scene.away.discard(self.kind)


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


@dataclass
class StopDatabase(Fault):
    """The database is away: the server stopped at once, or the file locked by a stranger."""

    kind = "stop_database"

    def aim(self, scene: Scene) -> Hit:
        """The database, if it is there."""
        return self._once(scene)

    def strike(self, scene: Scene) -> None:
        """Stop or lock it."""
        self._locker: subprocess.Popen[bytes] | None = None
        if scene.deployment.database:
            scene.deployment.database.stop()
            return
        path = scene.deployment.engine.url.database
        self._locker = subprocess.Popen([sys.executable, "-c", LOCK_SQLITE, str(path)])

    def heal(self, scene: Scene) -> None:
        """Start or unlock it."""
        if self._locker is not None:
            self._locker.kill()
            self._locker.wait()
        elif scene.deployment.database:
            scene.deployment.database.start()
        scene.away.discard(self.kind)


@dataclass
class FillStore(Fault):
    """The artifact store has no byte left: every write fails with ENOSPC, in the middle of the file."""

    kind = "fill_store"

    def aim(self, scene: Scene) -> Hit:
        """The store, if it is a file system of its own."""
        if not scene.deployment.store_is_limited:
            raise NothingToHit
        return self._once(scene)

    def strike(self, scene: Scene) -> None:
        """Take all the space that is left."""
        self._filler = scene.deployment.store.with_name("filler")
        space = os.statvfs(self._filler.parent)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize))

    def heal(self, scene: Scene) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)
        scene.away.discard(self.kind)


@dataclass
class HideStore(Fault):
    """The artifact store is away: it can neither be read nor written to, and comes back as it was."""

    kind = "hide_store"

    def aim(self, scene: Scene) -> Hit:
        """The store, once there is one."""
        if not scene.deployment.store.is_dir():
            raise NothingToHit
        return self._once(scene)

    def strike(self, scene: Scene) -> None:
        """Put a file where the store was."""
        store = scene.deployment.store
        store.rename(store.with_name("hidden"))
        store.touch()

    def heal(self, scene: Scene) -> None:
        """Bring it back."""
        store = scene.deployment.store
        store.unlink()
        store.with_name("hidden").rename(store)
        scene.away.discard(self.kind)


@dataclass
class DamageArtifact(Fault):
    """A stored delta or checkpoint is cut short, or one bit of it flips."""

    kind = "damage_artifact"
    truncated: bool
    which: float

    def aim(self, scene: Scene) -> Hit:
        """One of the artifacts that steps name; nobody is hit until it is read."""
        query = select(col(Step.artifact), col(Step.checkpoint)).where(
            or_(
                (col(Step.kind) == StepKind.EDIT) & (col(Step.status) == StepStatus.SUCCEEDED),
                col(Step.checkpoint).is_not(None),
            )
        )
        try:
            with reading(scene.deployment.engine) as session:
                named = {name for row in session.execute(query) for name in row if name}
        except DBAPIError:
            raise NothingToHit from None
        there = sorted(name for name in named if (scene.deployment.store / name).is_file())
        if not there:
            raise NothingToHit
        self._name = there[int(self.which * len(there))]
        return Hit(target=self._name)

    def strike(self, scene: Scene) -> None:
        """Damage it where it lies."""
        path = scene.deployment.store / self._name
        if not path.exists():
            return  # a checkpoint that was forgotten in this moment
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if self.truncated:
                file.truncate(size // 2)
                return
            file.seek(int(self.which * size))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))


def _worker(random_: random.Random) -> int:
    return random_.randrange(2)


FAULTS: tuple[Callable[[random.Random], Fault], ...] = (
    lambda dice: KillChild(0, _worker(dice)),
    lambda dice: KillWorker(dice.uniform(0.5, 3), _worker(dice)),
    lambda dice: KillGateway(dice.uniform(0.5, 2)),
    lambda dice: Freeze(dice.uniform(7, 9), _worker(dice), dice.choice(["worker", "child", "both", "both"])),
    lambda dice: TerminateWorker(0, _worker(dice)),
    lambda dice: DrainWorker(dice.uniform(3, 6), _worker(dice)),
    lambda dice: SkewClock(dice.uniform(10, 20), _worker(dice), dice.choice([1, -1]) * HOUR_SECONDS),
    lambda dice: WipeBroker(0),
    lambda dice: StopBroker(dice.uniform(1, 4)),
    lambda dice: StrayWakeUps(dice.uniform(3, 10)),
    lambda dice: StopDatabase(dice.uniform(0.5, 5)),
    lambda dice: FillStore(dice.uniform(2, 5)),
    lambda dice: HideStore(dice.uniform(1, 4)),
    lambda dice: DamageArtifact(0, dice.random() < 0.5, dice.random()),
)
