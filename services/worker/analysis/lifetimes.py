"""How long facts stayed right under tuning, counted fact by fact at the probed steps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from shared.measurement import Arm, FactKind, Mode, ProbeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from services.worker.analysis.inputs import ProbeKey, Trial

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lifetime:
    """One fact in one trial, right just before tuning.

    right_until: the last probed step before the loss at which it was right (0: just before tuning), or
    where it was never lost, the last probed step of all. lost_at: the first probed step at which it was
    wrong; None where it was not. The loss itself lies between the two.
    """

    fact: str
    right_until: int
    lost_at: int | None

    @property
    def time(self) -> int:
        """The step of the loss or, without one, of the end of observation."""
        return self.right_until if self.lost_at is None else self.lost_at


def trial_lifetimes(trial: Trial, fact_kind: FactKind, mode: Mode) -> dict[ProbeKey, Lifetime]:
    """How long each fact of a kind lasted that was right just before tuning and probed after it.

    A loss is the first probe at which the answer is wrong; whether it comes back later is of no account.
    """
    before = trial.scores(Arm.EDITED, fact_kind, ProbeKind.REWRITE)
    right_until = dict.fromkeys((key for key, score in before.items() if score.right(mode)), 0)
    lost_at: dict[ProbeKey, int] = {}
    for step in probed_steps(trial):
        for key, score in trial.scores(Arm.EDITED_TUNED, fact_kind, ProbeKind.REWRITE, step).items():
            if key not in right_until or key in lost_at:
                continue
            if score.right(mode):
                right_until[key] = step
            else:
                lost_at[key] = step
    return {
        key: Lifetime(key[0], until, lost_at.get(key))
        for key, until in right_until.items()
        if until or key in lost_at
    }


@dataclass(frozen=True)
class LifeTable:
    """Trials at risk and lost at each probed step, by fact: the trials of one fact are alike.

    facts: ids, sorted. steps: (steps,) float64, ascending. at_risk: (facts, steps) float64, trials whose
    loss or end of observation is at that step or later; lost: (facts, steps) float64, trials lost there.
    """

    facts: tuple[str, ...]
    steps: Array
    at_risk: Array
    lost: Array

    @classmethod
    def of(cls, found: Sequence[Lifetime], steps: Sequence[int]) -> LifeTable:
        """Count lifetimes at `steps`, which must hold the time of each of them."""
        facts = tuple(sorted({life.fact for life in found}))
        row = {fact: index for index, fact in enumerate(facts)}
        column = {step: index for index, step in enumerate(steps)}
        rows = np.array([row[life.fact] for life in found], dtype=np.intp)
        ends = np.array([column[life.time] for life in found], dtype=np.intp)
        losses = np.array([life.lost_at is not None for life in found], dtype=bool)
        ended, lost = np.zeros((len(facts), len(steps))), np.zeros((len(facts), len(steps)))
        np.add.at(ended, (rows, ends), 1.0)
        np.add.at(lost, (rows[losses], ends[losses]), 1.0)
        at_risk = ended[:, ::-1].cumsum(axis=1)[:, ::-1]
        return cls(facts, np.array(steps, dtype=np.float64), at_risk, lost)

    @property
    def trials(self) -> Array:
        """Trials of each fact, (facts,) float64."""
        found: Array = self.at_risk[:, 0]
        return found


def life_table(
    trials: Sequence[Trial], fact_kind: FactKind, mode: Mode, steps: Sequence[int] | None = None
) -> LifeTable | None:
    """The life table of a kind of fact, seeds pooled; None where no fact of the kind could be followed.

    steps: by default the `common_steps` of the trials.
    """
    steps = common_steps(trials) if steps is None else steps
    found = [
        at_steps(life, steps) for trial in trials for life in trial_lifetimes(trial, fact_kind, mode).values()
    ]
    return LifeTable.of(found, steps) if found else None


def at_steps(life: Lifetime, steps: Sequence[int]) -> Lifetime:
    """The lifetime as seen at `common_steps` alone: lost by the next of them, else right until the last."""
    if life.lost_at is None:
        return replace(life, right_until=steps[-1])
    return replace(life, lost_at=steps[bisect_left(steps, life.lost_at)])


def common_steps(trials: Iterable[Trial]) -> list[int]:
    """The steps after which every trial was probed, and as the last one the latest end of any.

    Trials that stop early end at different steps, and each is probed at its own. Were all of these steps of
    one curve, the losses of a single interval would be multiplied once per trial. So the last step stands for
    the end of every trial, whenever that was: a tuning that ended leaves its model as it is from there on.
    What is read there is the share that was right at every probe until the end, and nothing is censored.
    """
    probed = [set(steps) for trial in trials if (steps := probed_steps(trial))]
    if not probed:
        return []
    return sorted({*set.intersection(*probed), max(map(max, probed))})


def probed_steps(trial: Trial) -> list[int]:
    """Every step after which the trial was probed, in order."""
    return [step for step in trial.tuning_steps(Arm.EDITED_TUNED) if step > 0]
