"""How long edits and controls last under tuning, as the report states it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.kaplan_meier import kaplan_meier, survival_intervals
from services.worker.analysis.lifetimes import common_steps, life_table, probed_steps
from services.worker.analysis.log_rank import log_rank
from services.worker.analysis.scoring_words import how_scored
from shared.measurement import FactKind, Mode
from shared.reports import Survival, SurvivalCurve, SurvivalPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import Trial
    from services.worker.analysis.lifetimes import LifeTable


HOW_LOST = "A fact is lost at the first probe that is wrong, whether or not it comes back."
ENDED_APART = "Seeds ended at different steps: the last point is the end of each, at the latest of them."


def survival(trials: Sequence[Trial], mode: Mode) -> Survival:
    """Curves of edits and of controls, and the test that they are one."""
    steps = common_steps(trials)
    edits, controls = (life_table(trials, kind, mode, steps) for kind in (FactKind.EDIT, FactKind.CONTROL))
    return Survival(
        mode=mode,
        how=" ".join([how_scored(mode), HOW_LOST, *([ENDED_APART] if ended_apart(trials) else [])]),
        edits=curve(edits, FactKind.EDIT),
        controls=curve(controls, FactKind.CONTROL),
        log_rank=log_rank(edits, controls) if edits and controls else None,
    )


def ended_apart(trials: Sequence[Trial]) -> bool:
    """Whether some were tuned for longer than others."""
    return len({steps[-1] for trial in trials if (steps := probed_steps(trial))}) > 1


def curve(table: LifeTable | None, fact_kind: FactKind) -> SurvivalCurve:
    """The curve as the report has it; without points where nothing was followed."""
    if table is None:
        return SurvivalCurve(fact_kind=fact_kind, facts=0, trials=0, lost=0, median_step=None, points=[])
    values, intervals = kaplan_meier(table), survival_intervals(table)
    at_risk, lost = table.at_risk.sum(axis=0), table.lost.sum(axis=0)
    points = [
        SurvivalPoint(
            tuning_step=int(step),
            at_risk=int(at_risk[index]),
            lost=int(lost[index]),
            value=float(values[index]),
            interval=intervals[index],
        )
        for index, step in enumerate(table.steps)
        if at_risk[index]
    ]
    return SurvivalCurve(
        fact_kind=fact_kind,
        facts=len(table.facts),
        trials=int(table.trials.sum()),
        lost=int(lost.sum()),
        median_step=next((point.tuning_step for point in points if point.value <= 0.5), None),
        points=points,
    )
