"""Everything that can go wrong in a chaos run."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos.deployment import WORKERS
from tests.chaos.faults.fault import Fault, Hit, NothingToHit, Scene
from tests.chaos.faults.messages import StopBroker, StrayWakeUps, WipeBroker
from tests.chaos.faults.processes import (
    DrainWorker,
    Freeze,
    KillChild,
    KillGateway,
    KillTuning,
    KillWorker,
    SkewClock,
    TerminateWorker,
)
from tests.chaos.faults.stores import DamageArtifact, FillStore, HideStore, StopDatabase

__all__ = ["FAULTS", "Fault", "Hit", "NothingToHit", "Scene"]

HOUR_SECONDS = 3600


def _worker(random_: random.Random) -> int:
    return random_.randrange(WORKERS)


FAULTS: tuple[Callable[[random.Random], Fault], ...] = (
    lambda dice: KillChild(0, _worker(dice)),
    lambda dice: KillTuning(0),
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
