"""What became of edits under stressors, as a person reads it in a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.wording import percent_with_interval, points_with_interval, verdict_text
from shared.reports import Report, StressReport


def stress_table(report: Report) -> RenderableType:
    """Every edited model under every stressor in a line, in the headline mode."""
    title = "Under stressors: kept of what the edited model answered right; excess decay in points"
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    table.add_column("edited model and stressor", overflow="fold")
    for name in ("edits kept", "controls kept", "excess decay", "verdict"):
        table.add_column(name, justify="right")
    for part in report.stress:
        edits, controls = (
            next(metric for metric in kept if metric.mode is report.headline_mode)
            for kept in (part.retention_edits, part.retention_controls)
        )
        decay = next(
            difference for difference in part.excess_decay if difference.mode is report.headline_mode
        )
        table.add_row(
            Text(f"{part.configuration}{remark(part)}"),
            percent_with_interval(edits),
            percent_with_interval(controls),
            points_with_interval(decay),
            verdict_text(part.verdict),
        )
    return table


def remark(part: StressReport) -> str:
    """How many further edits took, and how many overwritten first ones are gone; nothing otherwise."""
    told = []
    if part.further_edits is not None:
        told.append(f"{part.further_edits.taken} of {part.further_edits.made} took")
    if part.superseded is not None:
        told.append(f"{part.superseded.numerator} of {part.superseded.denominator} overwritten are gone")
    return f" ({', '.join(told)})" if told else ""
