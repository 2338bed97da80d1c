"""What goes wrong with a worker, its child or the gateway."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from shared.database import reading
from shared.states import StepKind, StepStatus
from shared.tables import Attempt, Step
from tests.chaos.faults.fault import Fault, Hit, NothingToHit, Scene
from tests.chaos.instrumentation.sitecustomize import CLOCK_VARIABLE
from tests.chaos.members import signal_group


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
class KillTuning(Fault):
    """SIGKILL of a child in the middle of a fine-tuning of which a checkpoint is kept."""

    kind = "kill_tuning"

    def aim(self, scene: Scene) -> Hit:
        """A worker that is at such a step."""
        query = (
            select(col(Attempt.worker))
            .join(Step, col(Step.lease_token) == col(Attempt.lease_token))
            .where(
                col(Step.kind) == StepKind.TUNE,
                col(Step.status) == StepStatus.RUNNING,
                col(Step.checkpoint).is_not(None),
            )
        )
        try:
            with reading(scene.deployment.engine) as session:
                at_it = set(session.execute(query).scalars())
        except DBAPIError:
            raise NothingToHit from None
        for member in scene.deployment.workers:
            if member.worker_name in at_it and member.children():
                self._member = member
                return Hit([member.worker_name])
        raise NothingToHit

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
