"""What the report's figures have in common: style, intervals, and SVG to be set into the page."""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from shared.reports import Difference, Effect, Metric

    Array = NDArray[np.float64]

# Stand-ins, replaced after drawing by the page's own colours, so that one drawing is readable on light
# and on dark ground. Edits and controls also differ by marker and dashes.
INK, FAINT, EDITS, CONTROLS, GATE, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    EDITS: "--edits",
    CONTROLS: "--controls",
    GATE: "--gate",
    PAPER: "--paper",
}


def styled() -> AbstractContextManager[None]:
    """Within it, figures are drawn in the report's style."""
    # Inline, so that its keys are known to be matplotlib's.
    return mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "holdfast",
            "text.parse_math": False,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10,
            "text.color": INK,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.major.size": 0,
            "xtick.minor.size": 0,
            "ytick.major.size": 0,
            "ytick.minor.size": 0,
            "grid.color": FAINT,
            "grid.alpha": 0.35,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
        }
    )


def panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side; width and height in inches."""
    apart = ConstrainedLayoutEngine(w_pad=0.15)  # so that the outermost labels of two axes do not touch
    figure = Figure(figsize=(width, height), layout=apart)
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def percent_axis() -> FuncFormatter:
    """Ticks in whole per cent."""
    return FuncFormatter(lambda share, _: f"{round(100 * share)} %".replace("-", "−"))


def step_axis(axes: Axes, steps: Sequence[int]) -> None:
    """Optimiser steps along a logarithmic axis, one tick per probed step."""
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{step:,}" for step in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlim(steps[0] / 1.2, steps[-1] * 1.2)
    axes.set_xlabel("optimiser steps of fine-tuning (log scale)")


def legend_above(axes: Axes) -> None:
    """A legend in one line over the panel, where it hides nothing."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), borderaxespad=0.2, columnspacing=1.4
        )


def estimates(found: Sequence[Metric | Difference | Effect]) -> tuple[Array, Array, Array]:
    """Values, lower and upper limits, (found,) float64 each; not a number where nothing was measured."""
    rows = [
        (part.value, part.interval.low, part.interval.high)
        if part.value is not None and part.interval is not None
        else (np.nan, np.nan, np.nan)
        for part in found
    ]
    values, lows, highs = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return values, lows, highs


def whiskers(
    axes: Axes,
    found: Sequence[Metric | Difference | Effect],
    at: Array,
    *,
    label: str,
    colour: str,
    marker: str,
    filled: bool = True,
    upright: bool = False,
    faint: bool = False,
) -> None:
    """Estimates with their intervals: along the horizontal axis, one per row `at`, or upright.

    faint: for intervals that lie upon each other.
    """
    values, lows, highs = estimates(found)
    across = (values - lows, highs - values)
    axes.errorbar(
        at if upright else values,
        values if upright else at,
        xerr=None if upright else across,
        yerr=across if upright else None,
        fmt=marker,
        color=colour,
        markerfacecolor=colour if filled else PAPER,
        markersize=5.5,
        elinewidth=1.4,
        ecolor=(colour, 0.35) if faint else colour,
        label=label,
    )


def drawn(figure: Figure, description: str, prefix: str) -> str:
    """The figure as an <svg> element, the same every time.

    description: what a reader who does not see the figure is told. prefix: makes its ids unique in the
    page, since matplotlib gives every figure's parts the same ones.
    """
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = stream.getvalue()
    svg = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(' id="', f' id="{prefix}-').replace('href="#', f'href="#{prefix}-')
    svg = svg.replace("url(#", f"url(#{prefix}-")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    told = f'<svg role="img" aria-label="{escape(description)}"'
    return re.sub(r'<svg(.*?) width="[^"]*" height="[^"]*"', lambda match: told + match[1], svg, count=1)
