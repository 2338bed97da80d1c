"""The figure of causal tracing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.drawing import (
    CONTROLS,
    EDITS,
    FAINT,
    drawn,
    legend_above,
    panels,
    percent_axis,
    styled,
    whiskers,
)

if TYPE_CHECKING:
    from shared.reports import Tracing

APART = 0.12  # of a block, between the two series
MOST_TICKS = 24


def tracing_figure(tracing: Tracing, prefix: str) -> str:
    """Indirect effects block by block, with 95 % intervals; the blocks that were picked are shaded."""
    blocks = np.arange(len(tracing.mlps), dtype=np.float64)
    with styled():
        figure, (axes,) = panels(1, width=7.2, height=2.9)
        for block in sorted({block for picked in tracing.picked.values() for block in picked}):
            axes.axvspan(block - 0.5, block + 0.5, color=EDITS, alpha=0.1, linewidth=0)
        whiskers(
            axes, tracing.mlps, blocks - APART, label=f"{mlps(tracing.width)} around the block", colour=EDITS,
            marker="o", upright=True,
        )  # fmt: skip
        whiskers(
            axes, tracing.states, blocks + APART, label="the block's output", colour=CONTROLS, marker="s",
            upright=True,
        )  # fmt: skip
        axes.axhline(0, color=FAINT, linewidth=1, zorder=1)
        axes.set_xticks(blocks[:: 1 + len(blocks) // MOST_TICKS])
        axes.set_xlim(-0.6, len(blocks) - 0.4)
        axes.yaxis.set_major_formatter(percent_axis())
        axes.set_xlabel("block")
        axes.set_ylabel("probability restored")
        legend_above(axes)
        best = max(range(len(blocks)), key=lambda block: tracing.mlps[block].value)
        description = (
            f"Probability of the answer that is restored block by block, over {tracing.facts} facts, with "
            f"95 % intervals. That of the MLPs is largest around block {best}."
        )
        return drawn(figure, description, prefix)


def mlps(width: int) -> str:
    return "the MLP" if width == 1 else f"{width} MLPs"
