"""What paraphrases and freezing gain, and what they cost, measured against doing without."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.costs import (
    locality_cost,
    locality_cost_tuned,
    retention_gained,
    task_loss_cost,
)
from services.worker.analysis.pareto import pareto_fronts
from shared.measurement import Mode
from shared.reports import Mitigation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import AuditFindings, Trial
    from shared.requests import Configuration

NOTHING_FROZEN = "none"


def rank_mitigations(findings: AuditFindings, mode: Mode) -> list[Mitigation]:
    """Every configuration that has a plainer sibling: the best of what can be had for its price first.

    Those that no sibling dominates come first (retention gained, cost on the task, cost on locality), then
    those that only the first do, and so on; among equals the most retention gained, then the lower cost on
    the task, then on locality. What could not be measured comes last.
    """
    found = []
    for configuration in findings.configurations:
        plain = plain_sibling(configuration, findings.configurations)
        if plain != configuration:
            found.append(
                compare(
                    configuration, plain, findings.trials_of(configuration), findings.trials_of(plain), mode
                )
            )
    ranked = sorted(with_fronts(found), key=_order)
    return [mitigation.model_copy(update={"rank": rank}) for rank, mitigation in enumerate(ranked, start=1)]


def plain_sibling(configuration: Configuration, configurations: Sequence[Configuration]) -> Configuration:
    """The same editor and recipe with the fewest paraphrases present and, where present, nothing frozen."""
    siblings = [
        other
        for other in configurations
        if (other.editor, other.recipe) == (configuration.editor, configuration.recipe)
    ]
    return min(siblings, key=lambda other: (other.freeze != NOTHING_FROZEN, other.paraphrases))


def compare(
    configuration: Configuration,
    plain: Configuration,
    trials: Sequence[Trial],
    plain_trials: Sequence[Trial],
    mode: Mode,
) -> Mitigation:
    """Gain and costs of one configuration over its plain sibling."""
    gained, task = retention_gained(trials, plain_trials, mode), task_loss_cost(trials, plain_trials)
    tuned = locality_cost_tuned(trials, plain_trials, mode)
    same_model = configuration.paraphrases == plain.paraphrases
    return Mitigation(
        configuration=configuration,
        against=plain,
        retention_gained=gained,
        task_loss_cost=task,
        locality_cost=locality_cost(trials, plain_trials, mode, same_model=same_model),
        locality_cost_tuned=tuned,
        gained_per_nat=per_cost(gained.value, task.value),
        gained_per_neighbour=per_cost(gained.value, tuned.value),
    )


def per_cost(gained: float | None, cost: float | None) -> float | None:
    """Gain per unit of cost; None where it cost nothing, or one of them was not measured."""
    return gained / cost if gained is not None and cost is not None and cost > 0 else None


def with_fronts(found: Sequence[Mitigation]) -> list[Mitigation]:
    """Mitigations with the Pareto front of each among its siblings, the plain one included."""
    families: dict[Configuration, list[int]] = {}
    for index, mitigation in enumerate(found):
        families.setdefault(mitigation.against, []).append(index)
    fronts: dict[int, int] = {}
    for family in families.values():
        fronts |= fronts_of(found, family)
    return [
        mitigation.model_copy(update={"front": front, "pareto": front == 1})
        for index, mitigation in enumerate(found)
        for front in (fronts.get(index),)
    ]


def fronts_of(found: Sequence[Mitigation], family: Sequence[int]) -> dict[int, int]:
    """Front of each sibling, by its place in `found`; those that lack a measure others have get none.

    A cost that was measured of no sibling is left out of account.
    """
    rows = np.array([[np.nan if value is None else value for value in objectives(found[i])] for i in family])
    known = rows[:, np.isfinite(rows).any(axis=0)]
    whole = np.isfinite(known).all(axis=1)
    if not known.shape[1] or not np.isfinite(rows[:, 0]).any():
        return {}
    plain = np.zeros((1, known.shape[1]))  # gains nothing and costs nothing
    fronts = pareto_fronts(np.vstack([known[whole], plain]))[:-1]
    measured = [index for index, kept in zip(family, whole, strict=True) if kept]
    return {index: int(front) for index, front in zip(measured, fronts, strict=True)}


def objectives(mitigation: Mitigation) -> tuple[float | None, ...]:
    """What there is to gain, more being better: retention, and the two costs with their signs turned."""
    costs = mitigation.task_loss_cost.value, mitigation.locality_cost_tuned.value
    return mitigation.retention_gained.value, *(None if cost is None else -cost for cost in costs)


def _order(mitigation: Mitigation) -> tuple[float, ...]:
    front = inf if mitigation.front is None else mitigation.front
    return front, *(inf if value is None else -value for value in objectives(mitigation))
