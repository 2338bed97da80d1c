"""A report as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from services.cli.edit_results import not_taken_lines
from services.cli.stress_table import stress_table
from services.cli.wording import (
    NOTHING,
    VERDICT_STYLES,
    nats_with_interval,
    p_value,
    percent,
    percent_with_interval,
    points_with_interval,
    rule,
    verdict_text,
)
from shared.measurement import TUNED, Arm, FactKind, Mode, ProbeKind
from shared.reports import ConfigurationReport, Difference, Metric, Mitigation, Report

WIDE = 78  # columns that arms side by side need
DETAILED_AT_MOST = 12  # configurations; more are listed one line each
SHOWN_MISSES = 3  # of each application of an editor; the page has more, the JSON all
PARETO = "*"
KEPT = ("kept [95 %]", "count")
MetricT = TypeVar("MetricT", Metric, Difference)
FACT_NAMES = {FactKind.EDIT: "edits", FactKind.CONTROL: "controls"}


def print_report(console: Console, report: Report) -> None:
    """Print what was audited, what was measured and what follows from it."""
    wide = console.width >= WIDE
    console.print(what_was_audited(report), "")
    if len(report.configurations) <= DETAILED_AT_MOST:
        for configuration in report.configurations:
            console.print(configuration_block(configuration, report.headline_mode, wide=wide), "")
    else:
        console.print(configuration_list(report), "")
    if report.stress:
        console.print(stress_table(report), "")
    for editing in report.editing:
        what = f"of {editing.edits} edits by {editing} did not take"
        for line in not_taken_lines(editing.not_taken, what, SHOWN_MISSES):
            console.print(line)
    if report.mitigations:
        console.print(mitigation_table(report.mitigations), "")
    for problem in report.problems:
        reason = f": {problem.error}" if problem.error else ""
        console.print(Text(f"not measured: {problem.title} ({problem.status}){reason}", style="yellow"))
    for warning in report.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))
    console.print(verdict_panel(report))


def what_was_audited(report: Report) -> RenderableType:
    """Model, edits, controls, and how answers were judged."""
    provenance = report.provenance
    seeds = ", ".join(map(str, provenance.seeds))
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", f"{provenance.model} ({provenance.dtype}, revision {provenance.model_revision[:12]})"),
        ("edits", str(report.edits)),
        ("controls", f"{report.controls} facts nobody edited, of {report.control_candidates} candidates"),
        ("judged by", f"{report.headline_mode}, {len(provenance.seeds)} seed(s): {seeds}"),
        ("ran on", f"{provenance.device}, {provenance.platform}"),
    ):
        grid.add_row(Text(name, style="dim"), Text(value))
    return Group(Rule("Do the edits survive fine-tuning?", align="left"), grid)


def configuration_block(configuration: ConfigurationReport, mode: Mode, *, wide: bool) -> RenderableType:
    """One configuration: share right per arm, retention, decay, and what the gate says of it."""
    title = Text.assemble(
        (str(configuration.configuration), "bold"),
        "  ",
        verdict_text(configuration.verdict),
    )
    lines: list[RenderableType] = [title, arms_table(configuration, mode, wide=wide)]
    lines += [_indented(Text(line)) for line in _decay_lines(configuration, mode)]
    for decision in configuration.decisions:
        style = VERDICT_STYLES[decision.verdict]
        why = Text.assemble((f"{decision.verdict}: {rule(decision.rule)}", style), f"  {decision.why}")
        lines.append(_indented(why))
    return Group(*lines)


def arms_table(configuration: ConfigurationReport, mode: Mode, *, wide: bool) -> Table:
    """Share right before and after, for edits and for controls; arms side by side where there is room."""
    columns = [["", *TUNED.arms, *KEPT]]
    for fact_kind, retentions in (
        (FactKind.EDIT, configuration.retention_edits),
        (FactKind.CONTROL, configuration.retention_controls),
    ):
        shares = [_share(configuration.shares, arm, fact_kind, mode) for arm in TUNED.arms]
        columns.append([FACT_NAMES[fact_kind], *shares, *_kept(_of_mode(retentions, mode))])
    header, *rows = columns if wide else [list(row) for row in zip(*columns, strict=True)]
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def configuration_list(report: Report) -> RenderableType:
    """Every configuration in a line."""
    table = Table(title="Retention after fine-tuning", title_justify="left", box=None, header_style="dim")
    table.add_column("configuration", overflow="fold")
    for name in ("edits kept", "controls kept", "excess decay", "verdict"):
        table.add_column(name, justify="right")
    for configuration in report.configurations:
        edits = _of_mode(configuration.retention_edits, report.headline_mode)
        controls = _of_mode(configuration.retention_controls, report.headline_mode)
        decay = _of_mode(configuration.excess_decay, report.headline_mode)
        table.add_row(
            Text(str(configuration.configuration)),
            percent_with_interval(edits) if edits else NOTHING,
            percent_with_interval(controls) if controls else NOTHING,
            points_with_interval(decay) if decay else NOTHING,
            verdict_text(configuration.verdict),
        )
    return table


def mitigation_table(mitigations: Sequence[Mitigation]) -> RenderableType:
    """What helped, best first, and what it cost."""
    units = " or ".join(dict.fromkeys(mitigation.task_loss_cost.unit for mitigation in mitigations))
    title = f"Mitigations, best first: points of retention gained; cost in {units} and points of locality"
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    table.add_column("", justify="right")
    table.add_column("configuration", overflow="fold")
    table.add_column("gained", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("locality", justify="right")
    for mitigation in sorted(mitigations, key=lambda mitigation: mitigation.rank):
        table.add_row(
            f"{mitigation.rank}{PARETO if mitigation.pareto else ''}",
            Text(str(mitigation.configuration)),
            points_with_interval(mitigation.retention_gained),
            nats_with_interval(mitigation.task_loss_cost),
            points_with_interval(mitigation.locality_cost_tuned),
        )
    return Group(table, Text(f"{PARETO} none of its siblings gains as much at no higher cost", style="dim"))


def verdict_panel(report: Report) -> RenderableType:
    """The verdict and why."""
    border = VERDICT_STYLES[report.verdict]
    return Panel(Text(report.why), title=verdict_text(report.verdict), border_style=border)


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 1))


def _decay_lines(configuration: ConfigurationReport, mode: Mode) -> Iterable[str]:
    raw = _of_mode(configuration.excess_decay, mode)
    if raw and raw.value is not None:
        yield f"excess decay of edits: {points_with_interval(raw)} points"
    matched = _of_mode(configuration.excess_decay_matched, mode)
    if matched and matched.value is not None:
        yield f"against controls of like confidence: {points_with_interval(matched)} points"
    test = configuration.survival.log_rank if configuration.survival else None
    if test:
        ratio = "" if test.hazard_ratio is None else f"; edits are lost {test.hazard_ratio:.2f} times as fast"
        yield f"log-rank test of edits against controls: p {p_value(test.p_value)}{ratio}"
    reversion = configuration.reversion
    if reversion.denominator:
        yield (
            f"reversion: {reversion.numerator} of {reversion.denominator} lost edits"
            f" went back to the old answer ({percent(reversion.value)})"
        )
    locality = _of_mode(configuration.locality, mode)
    if locality and locality.value is not None:
        yield f"neighbourhood spared by the editor: {percent_with_interval(locality)}"
    losses = [
        (trial.held_out_loss_before, trial.held_out_loss_after)
        for trial in configuration.trials
        if trial.held_out_loss_before is not None and trial.held_out_loss_after is not None
    ]
    if losses:
        before, after = (sum(column) / len(losses) for column in zip(*losses, strict=True))
        unit = configuration.trials[0].held_out_loss_unit
        yield f"held-out loss of the fine-tuning task: {before:.2f} to {after:.2f} {unit}"


def _share(shares: Iterable[Metric], arm: Arm, fact_kind: FactKind, mode: Mode) -> str:
    for metric in shares:
        if (metric.arm, metric.fact_kind, metric.probe_kind, metric.mode) == (
            arm,
            fact_kind,
            ProbeKind.REWRITE,
            mode,
        ):
            return percent(metric.value)
    return NOTHING


def _kept(metric: Metric | None) -> tuple[str, str]:
    if metric is None or metric.value is None:
        return NOTHING, NOTHING
    return percent_with_interval(metric), f"{metric.numerator}/{metric.denominator}"


def _of_mode(metrics: Iterable[MetricT], mode: Mode) -> MetricT | None:
    return next((metric for metric in metrics if metric.mode == mode), None)
