"""What is asked of the service in a chaos run, planned ahead from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.chaos.deployment import TOKENS
from tests.support.parity_audit import parity_request

WAVE_SECONDS = 20.0
FATES = ("none", "none", "none", "none", "cancel", "cancel and retry", "retry from scratch")
DROPOUT = {"kind": "lora", "rank": 4, "dropout": 0.2}
PATIENCE_SECONDS = (0.0, 12.0)  # from an answer to the cancel


@dataclass(frozen=True)
class Ask:
    """One submission and what its submitter does next.

    at: seconds from the beginning. twice: sent by two clients at once, with one key. run_seconds: the
    deadline that the audit sets itself. fate: what its submitter does with it, `patience` seconds after
    it was accepted.
    """

    at: float
    submitter: str
    request: str
    key: str
    priority: int
    twice: bool
    run_seconds: int | None
    fate: str
    patience: float

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        deadlines = {} if self.run_seconds is None else {"deadlines": {"run_seconds": self.run_seconds}}
        return {**body(self.request), "priority": self.priority, **deadlines}


def plan_asks(random_: random.Random, seconds: float) -> list[Ask]:
    """Waves of submissions. Each wave asks for new work (its own seed of the trials), some of it twice."""
    asks: list[Ask] = []
    for wave in range(max(1, int(seconds / WAVE_SECONDS))):
        requests = [f"{shape}/{wave}" for shape in random_.sample(sorted(SHAPES), k=2)]
        for request in (*requests, *requests, random_.choice(requests)):
            asks.append(
                Ask(
                    at=wave * WAVE_SECONDS + random_.uniform(0, WAVE_SECONDS / 2),
                    submitter=random_.choice(sorted(TOKENS)),
                    request=request,
                    key=f"ask-{len(asks)}",
                    priority=random_.choice([0, 0, 0, 5]),
                    twice=random_.random() < 0.3,
                    run_seconds=random_.choice([None] * 11 + [8]),
                    fate=random_.choice(FATES),
                    patience=random_.uniform(*PATIENCE_SECONDS),
                )
            )
    return sorted(asks, key=lambda ask: ask.at)


def body(request: str) -> dict[str, Any]:
    """The body that a request's name, `SHAPE/SEED`, stands for."""
    shape, seed = request.split("/")
    whole = parity_request(seeds=[int(seed)])
    recipe = {**whole["recipes"][0], "freeze": ["none"]}
    return {**whole, **SHAPES[shape](whole, recipe)}


def _short(whole: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Few steps, each over at once; dropout needs random generators that a resumed run must have kept."""
    return {"editors": whole["editors"][1:], "recipes": [{**recipe, "update": DROPOUT}]}


def _wide(whole: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Many independent steps."""
    memit = {**whole["editors"][0], "paraphrases": [0]}
    return {"editors": [memit, whole["editors"][1]], "recipes": [{**recipe, "freeze": ["none", "edited"]}]}


def _long(whole: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Fine-tunings of some seconds, saved several times."""
    return {"editors": whole["editors"][1:], "recipes": [{**recipe, "steps": 200, "probe_count": 4}]}


def _adapted(whole: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The same with adapters, dropout and another schedule."""
    adapted = {**recipe, "name": "adapted", "update": DROPOUT, "steps": 120, "schedule": "cosine"}
    return {"editors": whole["editors"][1:], "recipes": [adapted]}


SHAPES = {"short": _short, "wide": _wide, "long": _long, "adapted": _adapted}
