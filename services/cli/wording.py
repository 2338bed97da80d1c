"""Numbers, times and states in words, the same everywhere."""

from __future__ import annotations

from rich.text import Text

from shared.reports import Difference, Interval, LossDifference, Metric
from shared.requests import GateRule
from shared.states import AuditStatus, StepStatus, Verdict
from shared.views import AuditView, StepView

VERDICT_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}
STATUS_STYLES = {
    AuditStatus.SUCCEEDED: "green",
    AuditStatus.FAILED: "red",
    AuditStatus.CANCELLED: "yellow",
    AuditStatus.EXPIRED: "yellow",
}
STEP_MARKS = {
    StepStatus.PENDING: ("·", "dim"),
    StepStatus.RUNNING: ("▶", "cyan"),
    StepStatus.SUCCEEDED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.SKIPPED: ("−", "yellow"),
    StepStatus.CANCELLED: ("−", "yellow"),
}
NOTHING = "—"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def time_left(seconds: float | None) -> str:
    """`about 3 min 20 s left`, or nothing where it is not known."""
    return "" if seconds is None else f"about {duration(seconds)} left"


def percent(share: float | None) -> str:
    """A share as `78 %`; one decimal where rounding would claim all or nothing."""
    if share is None:
        return NOTHING
    rounded = round(share * 100)
    exact = share in (0.0, 1.0) or 0 < abs(rounded) < 100
    return f"{rounded} %" if exact else f"{share * 100:.1f} %"


def percent_with_interval(metric: Metric) -> str:
    """`78 % [64, 87]`, the interval in per cent too."""
    return f"{percent(metric.value)}{_bounds(metric.interval)}"


def points_with_interval(difference: Difference) -> str:
    """A difference of shares in percentage points: `+17 [8, 26]`."""
    if difference.value is None:
        return NOTHING
    return f"{round(difference.value * 100):+d}{_bounds(difference.interval)}"


def nats_with_interval(cost: LossDifference) -> str:
    """A difference of losses in nats: `+0.034 [0.021, 0.047]`."""
    if cost.value is None:
        return NOTHING
    limits = "" if cost.interval is None else f" [{cost.interval.low:.3f}, {cost.interval.high:.3f}]"
    return f"{cost.value:+.3f}{limits}"


def p_value(value: float) -> str:
    """`= 0.043`, or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _bounds(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" [{round(interval.low * 100)}, {round(interval.high * 100)}]"


def verdict_text(verdict: Verdict | None) -> Text:
    """A verdict in its colour; nothing for a configuration that no rule of the gate speaks of."""
    return Text(verdict.upper(), style=VERDICT_STYLES[verdict]) if verdict else Text()


def rule(gate_rule: GateRule) -> str:
    """What a gate rule demands: `retention ≥ 80 %`."""
    under = "" if gate_rule.stressor is None else " under stress"
    if gate_rule.at_least is not None:
        return f"{gate_rule.metric.replace('_', ' ')}{under} ≥ {percent(gate_rule.at_least)}"
    return f"{gate_rule.metric.replace('_', ' ')}{under} ≤ {percent(gate_rule.at_most)}"


def died(deaths: int) -> str:
    """`died once`, `died 2 times`, or nothing."""
    return "" if deaths == 0 else "died once" if deaths == 1 else f"died {deaths} times"


def place_in_queue(view: AuditView) -> str:
    """`, number 2 in the queue, starts in about 3 min 20 s`, as far as it is known."""
    place = f", number {view.queue_position} in the queue" if view.queue_position else ""
    wait = view.starts_in_seconds
    return place if wait is None else f"{place}, starts in about {duration(wait)}"


def step_remark(step: StepView) -> str:
    """What is worth saying after a step's title."""
    if step.status is StepStatus.FAILED:
        cause = f" ({step.cause})" if step.cause else ""
        return f"failed{cause}: {step.error or 'no reason given'}"
    if step.status is StepStatus.SKIPPED:
        return "skipped: a step it needs failed"
    if step.status is StepStatus.CANCELLED:
        return "cancelled"
    if step.status is StepStatus.SUCCEEDED:
        if step.reused:
            return "reused: the same step has run before"
        if step.started_at and step.finished_at:
            return duration((step.finished_at - step.started_at).total_seconds())
        return ""
    again = died(step.deaths)
    if step.status is StepStatus.RUNNING:
        return "  ".join(part for part in (step.progress_note, time_left(step.seconds_left), again) if part)
    return again
