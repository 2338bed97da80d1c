"""The figure of survival curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.drawing import (
    CONTROLS,
    EDITS,
    drawn,
    legend_above,
    panels,
    percent_axis,
    step_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from shared.reports import Survival, SurvivalCurve


def survival_figure(survival: Survival, name: str, prefix: str) -> str:
    """Survival of edits and of controls over optimiser steps, with 95 % bands."""
    steps = sorted(
        {point.tuning_step for curve in (survival.edits, survival.controls) for point in curve.points}
    )
    with styled():
        figure, (axes,) = panels(1, width=7.2, height=2.9)
        step_axis(axes, steps)
        draw_curve(axes, survival.controls, steps[0], label="controls", colour=CONTROLS, line="--")
        draw_curve(axes, survival.edits, steps[0], label="edits", colour=EDITS, line="-")
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_ylabel("never lost so far")
        legend_above(axes)
        return drawn(
            figure,
            f"Survival of edits and of control facts during fine-tuning (Kaplan–Meier): {name}.",
            prefix,
        )


def draw_curve(
    axes: Axes, curve: SurvivalCurve, first_step: int, *, label: str, colour: str, line: str
) -> None:
    """A falling step at each probe that saw losses, from 100 % on; its band likewise."""
    if not curve.points:
        return
    start = first_step / 2  # the axis is logarithmic and has no 0
    steps = [start, *(point.tuning_step for point in curve.points)]
    values = [1.0, *(point.value for point in curve.points)]
    lows = [1.0, *(point.interval.low for point in curve.points)]
    highs = [1.0, *(point.interval.high for point in curve.points)]
    axes.fill_between(steps, lows, highs, step="post", color=colour, alpha=0.16, linewidth=0)
    axes.step(steps, values, line, where="post", color=colour, label=label)
    # The last value has no width of its own in such a step.
    axes.plot(steps[-1:], values[-1:], "s" if line == "--" else "o", color=colour, markersize=5)
    axes.vlines(steps[-1:], lows[-1:], highs[-1:], color=(colour, 0.35), linewidth=2.5)
