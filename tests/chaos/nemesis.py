"""When things go wrong in a chaos run: planned ahead from the seed, carried out by the clock.

Faults may overlap. One that finds nothing to hit at its moment (the worker is down already, no artifact
is there yet) does nothing and is not recorded.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS, Fault, NothingToHit, Scene

PAUSE_SECONDS = (1.5, 4.5)  # between the beginnings of two faults


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
        while self.plan and self.plan[0].at <= now:
            self._strike(self.plan.pop(0).fault, now)

    def heal_all(self) -> None:
        """End every fault."""
        while self._to_heal:
            self._heal()

    def _strike(self, fault: Fault, now: float) -> None:
        try:
            hit = fault.aim(self.scene)
        except NothingToHit:
            return
        number = next(self._numbers)
        self._note(fault, number, "began", hit.workers, hit.target)  # before anybody can notice it
        fault.strike(self.scene)
        heapq.heappush(self._to_heal, (now + fault.seconds, number, fault))

    def _heal(self) -> None:
        _, number, fault = heapq.heappop(self._to_heal)
        fault.heal(self.scene)
        self._note(fault, number, "healed", [], None)

    def _note(self, fault: Fault, number: int, act: str, workers: list[str], target: str | None) -> None:
        self.scene.log.add("fault", kind=fault.kind, fault=number, act=act, workers=workers, target=target)
