"""Cells and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from retention_study.parts import CONTINUED, ONE_BY_ONE
from services.cli.wording import NOTHING, percent_with_interval
from shared.measurement import HEADLINE_MODE, Arm, FactKind, ProbeKind
from shared.reports import ConfigurationReport, Interval, Metric
from shared.requests import Configuration

NAMES = ("editor", "tuned on")
LEAST_P = 0.001


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or a word that there is nothing to show."""
    if not rows:
        return "Nothing measured yet."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(escaped(cell) for cell in line)} |" for line in lines)


def escaped(cell: str) -> str:
    """A cell on one line that holds no border."""
    return " ".join(cell.replace("|", "\\|").split())


def names(configuration: Configuration) -> list[str]:
    """The editor, and what its models were tuned on."""
    recipe = configuration.recipe
    return [configuration.editor, f"{CONTINUED}, one by one" if recipe == ONE_BY_ONE else recipe]


def how_edited(configuration: Configuration) -> str:
    """Whether its edits were made together."""
    return "one by one" if configuration.recipe == ONE_BY_ONE else "in a batch"


def share(found: ConfigurationReport, arm: Arm, fact_kind: FactKind, probe_kind: ProbeKind) -> str:
    """The share of probes answered right at an arm."""
    wanted = (arm, fact_kind, probe_kind, HEADLINE_MODE)
    for metric in found.shares:
        if (metric.arm, metric.fact_kind, metric.probe_kind, metric.mode) == wanted:
            return percent_with_interval(metric)
    return NOTHING


def with_count(metric: Metric) -> str:
    """`78 % [64, 87] of 120`."""
    return f"{percent_with_interval(metric)} of {metric.denominator:,}"


def ratio(value: float | None, interval: Interval | None) -> str:
    """`2.1 [1.4, 3.2]`."""
    if value is None:
        return NOTHING
    return f"{value:.2g}" + (f" [{interval.low:.2g}, {interval.high:.2g}]" if interval else "")


def p_value(value: float) -> str:
    """Three decimals."""
    return f"< {LEAST_P}" if value < LEAST_P else f"{value:.3f}"


def mean_loss(losses: Iterable[float | None]) -> str:
    """The mean over trials, in nats per token."""
    known = [loss for loss in losses if loss is not None]
    return f"{fmean(known):.3f}" if known else NOTHING


def distinct(texts: Iterable[str]) -> str:
    """All different texts, in the order in which they first appear."""
    return "; ".join(dict.fromkeys(texts)) or "none"
