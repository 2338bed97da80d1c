"""When things go wrong in a chaos run: planned ahead from the seed, carried out by the clock.

Faults may overlap. One that finds nothing to hit at its moment (the worker is down already, no artifact
is there yet) waits for something, for a while; it is recorded when it strikes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS, Fault, NothingToHit, Scene

PAUSE_SECONDS = (2.0, 4.5)  # between the beginnings of two faults
AIM_SECONDS = 60.0  # how long a fault waits for something to hit


@dataclass(frozen=True)
class Planned:
    """A fault, and when it begins: seconds from the beginning of the run."""

    at: float
    fault: Fault


def plan_faults(random_: random.Random, seconds: float) -> list[Planned]:
    """Faults for `seconds`: all kinds in a random order, then all kinds again."""
    kinds = _forever(random_)
    planned = []
    at = random_.uniform(*PAUSE_SECONDS)
    while at < seconds:
        planned.append(Planned(at, next(kinds)(random_)))
        at += random_.uniform(*PAUSE_SECONDS)
    return planned


def _forever(random_: random.Random) -> Iterator[Callable[[random.Random], Fault]]:
    while True:
        yield from random_.sample(FAULTS, k=len(FAULTS))


@dataclass
class Nemesis:
    """Carries out a plan in one scene."""

    scene: Scene
    plan: list[Planned]
    _to_heal: list[tuple[float, int, Fault]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def act(self, now: float) -> None:
        """Do what is due `now` seconds from the beginning."""
        while self._to_heal and self._to_heal[0][0] <= now:
            self._heal()
        for planned in [planned for planned in self.plan if planned.at <= now]:
            if self._strike(planned.fault, now) or now > planned.at + AIM_SECONDS:
                self.plan.remove(planned)

    def heal_all(self) -> None:
        """End every fault."""
        while self._to_heal:
            self._heal()

    def _strike(self, fault: Fault, now: float) -> bool:
        """Carry the fault out; whether there was something to hit."""
        try:
            hit = fault.aim(self.scene)
        except NothingToHit:
            return False
        number = next(self._numbers)
        self._note(fault, number, "began", hit.workers, hit.target)  # before anybody can notice it
        fault.strike(self.scene)
        heapq.heappush(self._to_heal, (now + fault.seconds, number, fault))
        return True

    def _heal(self) -> None:
        _, number, fault = heapq.heappop(self._to_heal)
        fault.heal(self.scene)
        self._note(fault, number, "healed", [], None)

    def _note(self, fault: Fault, number: int, act: str, workers: list[str], target: str | None) -> None:
        self.scene.log.add("fault", kind=fault.kind, fault=number, act=act, workers=workers, target=target)
