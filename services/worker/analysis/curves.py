"""Retention over the course of tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.lifetimes import common_steps
from services.worker.analysis.retention import metric, retention
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import CurvePoint, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import Trial


def retention_curve(trials: Sequence[Trial], mode: Mode) -> list[CurvePoint]:
    """Retention of edits and of controls after each step that all trials were probed at, seeds pooled.

    The last point is the end of each trial, also where some ended earlier than others (`common_steps`).

    Each point is counted anew among the facts right just before tuning: an answer that was lost and
    came back is right again.
    """
    steps = common_steps(trials)
    return [
        CurvePoint(
            tuning_step=step,
            edits=_point(trials, FactKind.EDIT, mode, probed),
            controls=_point(trials, FactKind.CONTROL, mode, probed),
        )
        for step in steps
        for probed in (None if step == steps[-1] else step,)
    ]


def _point(trials: Sequence[Trial], fact_kind: FactKind, mode: Mode, step: int | None) -> Metric:
    counts = retention(trials, fact_kind, mode, step)
    return metric(
        "retention", counts, mode, arm=Arm.EDITED_TUNED, fact_kind=fact_kind, probe_kind=ProbeKind.REWRITE
    )
