"""Life tables written down fact by fact, or drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from services.worker.analysis.lifetimes import LifeTable, Lifetime

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = (1, 3, 8, 22, 60)


def table(
    times: Sequence[int],
    lost: Sequence[bool],
    *,
    steps: Sequence[int] | None = None,
    seeds: int = 1,
    of: str = "edit",
) -> LifeTable:
    """One fact per `seeds` trials in a row, each with the step of its loss or of its end of observation."""
    found = [
        Lifetime(f"{of}:{index // seeds}", 0 if gone else time, time if gone else None)
        for index, (time, gone) in enumerate(zip(times, lost, strict=True))
    ]
    return LifeTable.of(found, steps or sorted(set(times)))


def drawn_table(
    generator: np.random.Generator,
    hazard: float,
    facts: int,
    *,
    seeds: int = 1,
    correlation: float = 0.0,
    of: str = "edit",
) -> LifeTable:
    """Trials that are lost at each step with odds that, of two trials of a fact, correlate as given.

    hazard: cumulative hazard over all steps. A fact's trials share a normal variable that makes up
    `correlation` of the one each trial is ranked by (a Gaussian copula).
    """
    common = np.sqrt(correlation) * generator.standard_normal((facts, 1))
    own = np.sqrt(1 - correlation) * generator.standard_normal((facts, seeds))
    lifetime = -np.log(np.clip(stats.norm.cdf(common + own), 1e-12, 1)) / hazard  # of the whole tuning
    column = np.searchsorted(np.arange(1, len(STEPS) + 1) / len(STEPS), lifetime)  # len(STEPS): never
    places = np.arange(len(STEPS))
    lost = (column[:, :, None] == places).sum(axis=1)
    at_risk = (np.minimum(column, len(STEPS) - 1)[:, :, None] >= places).sum(axis=1)
    ids = tuple(f"{of}:{index}" for index in range(facts))
    return LifeTable(ids, np.array(STEPS, dtype=float), at_risk.astype(float), lost.astype(float))
