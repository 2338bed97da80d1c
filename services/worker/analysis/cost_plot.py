"""The figure of what mitigations gain against what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.drawing import EDITS, FAINT, PAPER, drawn, panels, percent_axis, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from shared.reports import Difference, LossDifference, Mitigation

MIN_COST_SHOWN = 0.01  # costs below this are not blown up to fill the panel
MIN_LOCALITY_SHOWN = 0.05  # ticks are whole per cents: closer ones would read alike


def cost_figure(mitigations: Sequence[Mitigation], prefix: str) -> str:
    """Retention gained against what it costs, on the task and on locality; numbers are ranks."""
    with styled():
        figure, (left, right) = panels(2, width=10.8, height=3.6)
        gain_against(left, mitigations, [found.task_loss_cost for found in mitigations], MIN_COST_SHOWN)
        gain_against(
            right, mitigations, [found.locality_cost_tuned for found in mitigations], MIN_LOCALITY_SHOWN
        )
        units = dict.fromkeys(found.task_loss_cost.unit for found in mitigations)
        left.set_xlabel(f"cost on the task: held-out loss, {' or '.join(units)}")
        left.set_ylabel("retention gained")
        right.set_xlabel("cost on locality after tuning: share of neighbours lost")
        right.xaxis.set_major_formatter(percent_axis())
        description = (
            f"Retention gained by {len(mitigations)} mitigations against their cost on the tuning task and "
            "on locality, with 95 % intervals. Filled points are not dominated. The table has the numbers."
        )
        return drawn(figure, description, prefix)


def gain_against(
    axes: Axes,
    mitigations: Sequence[Mitigation],
    costs: Sequence[LossDifference | Difference],
    least_shown: float,
) -> None:
    """One panel: gains over one cost, each with its interval; filled where no sibling dominates."""
    for cost, found in zip(costs, mitigations, strict=True):
        gain = found.retention_gained
        if cost.value is None or gain.value is None:
            continue
        axes.errorbar(
            [cost.value],
            [gain.value],
            xerr=reach(cost),
            yerr=reach(gain),
            fmt="o",
            color=EDITS,
            markerfacecolor=EDITS if found.pareto else PAPER,
            markersize=5.5,
            elinewidth=1.4,
            ecolor=(EDITS, 0.35),  # intervals lie upon each other
        )
        axes.annotate(str(found.rank), (cost.value, gain.value), xytext=(6, 4), textcoords="offset points")
    axes.axhline(0, color=FAINT, linewidth=1, zorder=1)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=1)
    axes.margins(x=0.12)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -least_shown), max(high, least_shown))
    axes.yaxis.set_major_formatter(percent_axis())


def reach(found: Difference | LossDifference) -> np.ndarray | None:
    """How far the interval reaches below and above the value, (2, 1); None without one."""
    if found.value is None or found.interval is None:
        return None
    return np.array([[found.value - found.interval.low], [found.interval.high - found.value]])
