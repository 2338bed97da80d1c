"""The report as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from services.worker.analysis.plots import cost_figure, curve_figure, forest_figure, headline
from services.worker.analysis.wording import MINUS, percent, points
from shared.measurement import HEADLINE_MODE, Arm, FactKind, ProbeKind
from shared.states import StepStatus

if TYPE_CHECKING:
    from shared.reports import ConfigurationReport, Interval, Metric, Report

NOTHING = "–"
PROBES = (
    (FactKind.EDIT, ProbeKind.REWRITE, "edits, own prompt"),
    (FactKind.EDIT, ProbeKind.PARAPHRASE, "edits, paraphrases"),
    (FactKind.EDIT, ProbeKind.NEIGHBORHOOD, "neighbourhood of edits"),
    (FactKind.CONTROL, ProbeKind.REWRITE, "control facts"),
)


def render_page(report: Report) -> str:
    """The page of a report: the same report gives the same page, byte for byte."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            headline_mode=HEADLINE_MODE,
            arms=list(Arm),
            forest=Markup(forest_figure(report.configurations, "forest")),  # noqa: S704 (drawn by us, text escaped)
            curves=[curve_of(part, index) for index, part in enumerate(report.configurations)],
            costs=costs_of(report),
            succeeded=StepStatus.SUCCEEDED,
            trials=[trial for part in report.configurations for trial in part.trials],
        )
    )


def curve_of(part: ConfigurationReport, index: int) -> Markup | None:
    """The curve of one configuration; None where it was not measured."""
    if not part.curve:
        return None
    return Markup(curve_figure(part.curve, str(part.configuration), f"curve{index}"))  # noqa: S704 (as above)


def costs_of(report: Report) -> Markup | None:
    """Gain against cost; None where no mitigation was measured."""
    if all(found.retention_gained.value is None for found in report.mitigations):
        return None
    return Markup(cost_figure(report.mitigations, "costs"))  # noqa: S704 (as above)


def shares_by_arm(part: ConfigurationReport) -> list[tuple[str, list[Metric | None]]]:
    """Rows of the table before and after: each kind of probe at each arm, in the headline mode."""
    found = {
        (share.fact_kind, share.probe_kind, share.arm): share
        for share in part.shares
        if share.mode is HEADLINE_MODE
    }
    rows = [(name, [found.get((fact, probe, arm)) for arm in Arm]) for fact, probe, name in PROBES]
    return [(name, shares) for name, shares in rows if any(shares)]


def share_or_nothing(share: float | None) -> str:
    return NOTHING if share is None else percent(share)


def points_or_nothing(difference: float | None) -> str:
    return NOTHING if difference is None else points(difference)


def percent_interval(interval: Interval | None) -> str:
    """0.81, 0.93 → "81.0–93.0 %"."""
    return "" if interval is None else f"{100 * interval.low:.1f}–{100 * interval.high:.1f} %"


def points_interval(interval: Interval | None) -> str:
    """Limits may be negative, so that they are joined by a word."""
    if interval is None:
        return ""
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}".replace("-", MINUS)


def decimal(number: float | None, digits: int = 3) -> str:
    return NOTHING if number is None else f"{number:.{digits}f}".replace("-", MINUS)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("services.worker.analysis", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": share_or_nothing,
        "points": points_or_nothing,
        "percent_interval": percent_interval,
        "points_interval": points_interval,
        "decimal": decimal,
        "headline": headline,
        "shares_by_arm": shares_by_arm,
    }
    return environment
