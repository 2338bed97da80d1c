"""How long facts lasted under fine-tuning: survival curves of edits and of controls, and their test."""

from __future__ import annotations

from shared.measurement import FactKind, Mode
from shared.reports.parts import Interval, ReportPart


class SurvivalPoint(ReportPart):
    """Share of facts that were right at every probe up to the one after `tuning_step` optimiser steps.

    at_risk: trials of facts right until then that were probed at this step or later; lost: those of them
    that were wrong at this probe. Every trial was probed at every point but the last, which is the end of
    each, put at the latest of their ends: it has whatever trials lost since the last step that all share.
    """

    tuning_step: int
    at_risk: int
    lost: int
    value: float
    interval: Interval


class SurvivalCurve(ReportPart):
    """Kaplan–Meier estimate over the probed steps, seeds pooled.

    facts: right just before tuning; trials: those facts times the seeds in which they were. lost: trials
    with a loss. median_step: the first probed step at which half are lost; None where fewer are.
    """

    fact_kind: FactKind
    facts: int
    trials: int
    lost: int
    median_step: int | None
    points: list[SurvivalPoint]


class LogRank(ReportPart):
    """A test that edits and controls last equally long, and how much faster the edits are lost.

    chi_squared has one degree of freedom. hazard_ratio: of edits over controls, 1 where they are lost
    equally fast; None where one side lost nothing or everything. It presumes that the ratio stays the same
    throughout tuning.
    """

    chi_squared: float
    p_value: float
    hazard_ratio: float | None
    hazard_ratio_interval: Interval | None
    method: str


class Survival(ReportPart):
    """Survival of edits and of controls in one mode; `log_rank` is None where nothing can be tested."""

    mode: Mode
    how: str
    edits: SurvivalCurve
    controls: SurvivalCurve
    log_rank: LogRank | None
