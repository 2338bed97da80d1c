"""The report's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from services.worker.analysis.drawing import (
    CONTROLS,
    EDITS,
    FAINT,
    GATE,
    drawn,
    estimates,
    legend_above,
    panels,
    percent_axis,
    step_axis,
    styled,
    whiskers,
)
from services.worker.analysis.gate import EXCESS_DECAY, threshold_of
from shared.measurement import HEADLINE_MODE
from shared.reports import Difference, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from shared.reports import ConfigurationReport, CurvePoint, StressReport
    from shared.requests import Configuration, StressConfiguration

MAX_NAME = 16  # characters

Measured = TypeVar("Measured", Metric, Difference)


def headline(measured: Sequence[Measured]) -> Measured:
    """The one in the headline mode."""
    return next(part for part in measured if part.mode is HEADLINE_MODE)


def curve_figure(curve: Sequence[CurvePoint], name: str, prefix: str) -> str:
    """Retention over optimiser steps, edits against controls, with 95 % bands."""
    steps = [point.tuning_step for point in curve]
    with styled():
        figure, (axes,) = panels(1, width=7.2, height=2.9)
        for metrics, label, colour, line in (
            ([point.controls for point in curve], "controls", CONTROLS, "--s"),
            ([point.edits for point in curve], "edits", EDITS, "-o"),
        ):
            values, lows, highs = estimates(metrics)
            if np.isfinite(values).any():
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.16, linewidth=0)
                axes.plot(steps, values, line, color=colour, markersize=5, label=label)
        step_axis(axes, steps)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_ylabel("retention")
        legend_above(axes)
        return drawn(figure, f"Retention of edits and of control facts during fine-tuning: {name}.", prefix)


def forest_figure(configurations: Sequence[ConfigurationReport | StressReport], prefix: str) -> str:
    """Retention and excess decay of every configuration, with the thresholds of its gate rules."""
    rows = np.arange(len(configurations), dtype=np.float64)[::-1]
    above, below = rows + 0.14, rows - 0.14
    with styled():
        figure, (left, right) = panels(2, width=10.8, height=1.2 + 0.44 * len(configurations))
        retained = [headline(part.retention_edits) for part in configurations]
        controls = [headline(part.retention_controls) for part in configurations]
        whiskers(left, retained, above, label="edits", colour=EDITS, marker="o")
        whiskers(left, controls, below, label="controls", colour=CONTROLS, marker="s")
        raw = [headline(part.excess_decay) for part in configurations]
        matched = [headline(part.excess_decay_matched) for part in configurations]
        whiskers(right, raw, above, label="raw", colour=EDITS, marker="D")
        whiskers(right, matched, below, label="matched controls", colour=EDITS, marker="D", filled=False)
        right.axvline(0, color=FAINT, linewidth=1, zorder=1)
        for axes, metric in ((left, "retention"), (right, EXCESS_DECAY)):
            mark_thresholds(axes, configurations, rows, metric)
            axes.set_ylim(-0.6, len(configurations) - 0.4)
            axes.xaxis.set_major_formatter(percent_axis())
            axes.grid(visible=False, axis="y")
            axes.spines["left"].set_visible(False)
            legend_above(axes)
        left.set_yticks(rows, [short_name(part.configuration) for part in configurations])
        left.set_xlim(right=1.01)
        left.set_xlabel("retention")
        right.set_yticks([])
        right.set_xlabel("excess decay (controls − edits)")
        description = (
            f"Retention of edits and controls, and excess decay, raw and matched, of {len(configurations)} "
            "configurations, with 95 % intervals and gate thresholds. The overview table has the numbers."
        )
        return drawn(figure, description, prefix)


def short_name(configuration: Configuration | StressConfiguration) -> str:
    """The configuration's name, what was named in the request cut short so that panels keep their room."""
    cut = {
        part: name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
        for part in ("editor", "recipe", "stressor")
        if (name := getattr(configuration, part, None)) is not None
    }
    return str(configuration.model_copy(update=cut))


def mark_thresholds(
    axes: Axes, configurations: Sequence[ConfigurationReport | StressReport], rows: np.ndarray, metric: str
) -> None:
    """A dashed mark in the row of each configuration that a rule in the headline mode speaks of."""
    label = "gate"
    for part, row in zip(configurations, rows, strict=True):
        for decision in part.decisions:
            rule = decision.rule
            if rule.metric == metric and rule.mode is HEADLINE_MODE:
                axes.plot(
                    [threshold_of(rule)] * 2,
                    [row - 0.45, row + 0.45],
                    "--",
                    color=GATE,
                    linewidth=1.5,
                    label=label,
                )
                label = "_"  # named once
