"""The report as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from services.worker.analysis.cost_plot import cost_figure
from services.worker.analysis.plots import curve_figure, forest_figure, headline
from services.worker.analysis.survival_plot import survival_figure
from services.worker.analysis.tracing_plot import tracing_figure
from services.worker.analysis.wording import MINUS, percent, points
from shared.edits import SLOT
from shared.measurement import HEADLINE_MODE, TUNED, FactKind, ProbeKind
from shared.reports import WentTo
from shared.states import StepStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.reports import (
        ConfigurationReport,
        Interval,
        LogRank,
        LossDifference,
        Metric,
        Mitigation,
        Report,
        RiskyEdit,
        StressReport,
    )

NOTHING = "–"
MOST_MISSES = 100  # shown of one editor's edits that did not take; of the others only the index is
PROBES = (
    (FactKind.EDIT, ProbeKind.REWRITE, "edits, own prompt"),
    (FactKind.EDIT, ProbeKind.PARAPHRASE, "edits, paraphrases"),
    (FactKind.EDIT, ProbeKind.NEIGHBORHOOD, "neighbourhood of edits"),
    (FactKind.EDIT, ProbeKind.ATTRIBUTE, "others with the new answer"),
    (FactKind.EDIT, ProbeKind.PORTABILITY, "what follows from edits"),
    (FactKind.EDIT, ProbeKind.SAME_SUBJECT, "else known of edited subjects"),
    (FactKind.EDIT, ProbeKind.DISTRACTED, "edits, after distractors"),
    (FactKind.EDIT, ProbeKind.NEGATED, "edits, denied: new answer all the same"),
    (FactKind.CONTROL, ProbeKind.REWRITE, "control facts"),
    (FactKind.CONTROL, ProbeKind.DISTRACTED, "control facts, after distractors"),
    (FactKind.CONTROL, ProbeKind.NEGATED, "control facts, denied: answer all the same"),
)
FEATURES = {
    "margin_before": "margin before tuning",
    "log_prob_before": "log p(new answer) before tuning",
    "target_tokens": "tokens of the new answer",
    "target_new_in_data": "mentions of the new answer in the training records, replayed text apart",
    "target_true_in_data": "mentions of the old answer in the training records, replayed text apart",
    "subject_in_data": "mentions of the subject in the training records, replayed text apart",
}


def render_page(report: Report) -> str:
    """The page of a report: the same report gives the same page, byte for byte."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            headline_mode=HEADLINE_MODE,
            arms=TUNED.arms,
            forest=forest_of(report.configurations, "forest"),
            stress_forest=forest_of(report.stress, "stress-forest"),
            curves=[curve_of(part, index) for index, part in enumerate(report.configurations)],
            survivals=[survival_of(part, index) for index, part in enumerate(report.configurations)],
            costs=costs_of(report),
            traced=traced_of(report),
            succeeded=StepStatus.SUCCEEDED,
            most_misses=MOST_MISSES,
            features=FEATURES,
            trials=[
                *(trial for part in report.configurations for trial in part.trials),
                *(trial for part in report.stress for trial in part.trials),
            ],
        )
    )


def forest_of(parts: Sequence[ConfigurationReport | StressReport], prefix: str) -> Markup | None:
    """Retention and excess decay of everything of one kind; None where there is nothing of it."""
    if not parts:
        return None
    return Markup(forest_figure(parts, prefix))  # noqa: S704 (drawn by us, text escaped)


def curve_of(part: ConfigurationReport, index: int) -> Markup | None:
    """The curve of one configuration; None where it was not measured."""
    if not part.curve:
        return None
    return Markup(curve_figure(part.curve, str(part.configuration), f"curve{index}"))  # noqa: S704 (as above)


def survival_of(part: ConfigurationReport, index: int) -> Markup | None:
    """The survival curves of one configuration; None where nothing was followed."""
    found = part.survival
    if found is None or not (found.edits.points or found.controls.points):
        return None
    return Markup(survival_figure(found, str(part.configuration), f"survival{index}"))  # noqa: S704 (as above)


def costs_of(report: Report) -> Markup | None:
    """Gain against cost; None where no mitigation was measured."""
    if all(found.retention_gained.value is None for found in report.mitigations):
        return None
    return Markup(cost_figure(report.mitigations, "costs"))  # noqa: S704 (as above)


def traced_of(report: Report) -> Markup | None:
    """Effects block by block; None where nothing was traced."""
    return None if report.tracing is None else Markup(tracing_figure(report.tracing, "traced"))  # noqa: S704 (as above)


def shares_by_arm(part: ConfigurationReport) -> list[tuple[str, list[Metric | None]]]:
    """Rows of the table before and after: each kind of probe at each arm, in the headline mode."""
    found = {
        (share.fact_kind, share.probe_kind, share.arm): share
        for share in part.shares
        if share.mode is HEADLINE_MODE
    }
    rows = [(name, [found.get((fact, probe, arm)) for arm in TUNED.arms]) for fact, probe, name in PROBES]
    return [(name, shares) for name, shares in rows if any(shares)]


def share_or_nothing(share: float | None) -> str:
    return NOTHING if share is None else percent(share)


def small_share(share: float) -> str:
    """A share that may be far below a per cent, with two digits that count."""
    return f"{100 * share:.2g} %"


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


def nats_interval(cost: LossDifference) -> str:
    """The interval over seeds, or that there is none of one seed."""
    if cost.value is None:
        return ""
    if cost.interval is None:
        return "one seed"
    return f"{cost.interval.low:.3f} to {cost.interval.high:.3f}".replace("-", MINUS)


def gained_per_tenth_of_a_nat(found: Mitigation) -> str:
    """Points of retention per 0.1 nat of held-out loss."""
    return NOTHING if found.gained_per_nat is None else f"{10 * found.gained_per_nat:.1f}".replace("-", MINUS)


def decimal(number: float | None, digits: int = 3) -> str:
    return NOTHING if number is None else f"{number:.{digits}f}".replace("-", MINUS)


def tested(found: LogRank) -> str:
    """Statistic, p and hazard ratio of a log-rank test."""
    p_value = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    told = f"χ² = {found.chi_squared:.1f}, {p_value}"
    interval = found.hazard_ratio_interval
    if found.hazard_ratio is None or interval is None:
        return told
    return (
        f"{told}; edits are lost {found.hazard_ratio:.2f} times as fast "
        f"({interval.low:.2f} to {interval.high:.2f})"
    )


def asked(edit: RiskyEdit) -> str:
    """The prompt with its subject."""
    return edit.prompt.replace(SLOT, edit.subject)


def went_to(edit: RiskyEdit) -> str:
    """What the losses of an edit went to, in words."""
    back, other = (edit.went_to.get(kind, 0) for kind in (WentTo.TARGET_TRUE, WentTo.OTHER))
    told = [f"the old answer: {back}"] if back else []
    if other:
        quoted = ", ".join(f"“{answer.strip()}”" for answer in edit.answers)
        told.append(f"another: {other} ({quoted})")
    return "; ".join(told)


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
        "small_share": small_share,
        "percent_interval": percent_interval,
        "points_interval": points_interval,
        "decimal": decimal,
        "nats_interval": nats_interval,
        "gained_per_tenth_of_a_nat": gained_per_tenth_of_a_nat,
        "headline": headline,
        "tested": tested,
        "asked": asked,
        "went_to": went_to,
        "shares_by_arm": shares_by_arm,
    }
    return environment
