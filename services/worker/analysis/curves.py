"""Retention over the course of tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.retention import metric, retention
from shared.measurement import Arm, FactKind, Mode
from shared.reports import CurvePoint, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import Trial


def retention_curve(trials: Sequence[Trial], mode: Mode) -> list[CurvePoint]:
    """Retention of edits and of controls after each probed step, seeds pooled.

    Each point is counted anew among the facts right just before tuning: an answer that was lost and
    came back is right again.
    """
    steps = sorted({step for trial in trials for step in trial.tuning_steps(Arm.EDITED_TUNED) if step > 0})
    return [
        CurvePoint(
            tuning_step=step,
            edits=_point(trials, FactKind.EDIT, mode, step),
            controls=_point(trials, FactKind.CONTROL, mode, step),
        )
        for step in steps
    ]


def _point(trials: Sequence[Trial], fact_kind: FactKind, mode: Mode, step: int) -> Metric:
    counts = retention(trials, fact_kind, mode, step)
    return metric("retention", counts, mode, arm=Arm.EDITED_TUNED, fact_kind=fact_kind)
