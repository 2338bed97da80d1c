"""What a gate rule says of a configuration: pass and fail need a bound, not an estimate."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, log2
from typing import TYPE_CHECKING

from services.worker.analysis.intervals import Share, exact_bounds, exact_difference_bounds, share_of
from services.worker.analysis.more_seeds import with_more_seeds
from services.worker.analysis.retention import efficacy, locality, retention, reversion
from services.worker.analysis.wording import percent, points
from shared.measurement import Arm, FactKind
from shared.reports import RuleDecision
from shared.states import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.worker.analysis.counts import FactCounts
    from services.worker.analysis.inputs import Trial
    from shared.requests import GateRule

MAX_FACTS_NEEDED = 1_000_000
MAX_SEEDS_NEEDED = 20  # the most that an audit takes

EXCESS_DECAY = "excess_decay"
SHARES: dict[str, tuple[str, Callable[[Sequence[Trial], GateRule], FactCounts]]] = {
    "retention": (
        "retention of edits",
        lambda trials, rule: retention(trials, FactKind.EDIT, rule.mode),
    ),
    "reversion": ("reversion of lost edits", lambda trials, rule: reversion(trials, rule.mode)),
    "efficacy": ("efficacy of the editor", lambda trials, rule: efficacy(trials, rule.mode)),
    "locality": ("locality of the edits", lambda trials, rule: locality(trials, rule.mode)),
}
AFTER_TUNING = frozenset({"retention", EXCESS_DECAY, "reversion"})
NOTHING_MEASURED = {
    "retention": "no edit was right just before tuning",
    "reversion": "no edit was lost",
    "efficacy": "no edit was probed",
    "locality": "no neighbourhood prompt was right before editing",
}


@dataclass(frozen=True)
class Evidence:
    """What a rule is judged on.

    bounds_at: one-sided 95 % lower and upper bounds at a multiple of the facts measured, the estimate
    and the seeds staying as they are.
    facts: edits probed, among them those that the measure is not about (not right before tuning).
    seeds: trials that were measured; bounds_over: the bounds at a multiple of them, the facts staying as they
    are; None where that cannot be told (one seed), or where no seed plays a part (before tuning).
    """

    estimate: float
    counted: str
    facts: int
    bounds_at: Callable[[float], tuple[float, float]]
    seeds: int = 1
    bounds_over: Callable[[float], tuple[float, float] | None] = lambda _factor: None


def decide(rule: GateRule, trials: Sequence[Trial]) -> RuleDecision:
    """Judge one configuration, given its trials, by one rule.

    `pass` and `fail` only when the one-sided 95 % bound clears the threshold; else `inconclusive`, with
    the number of edits (controls in proportion), and of seeds, that would settle it at this estimate. Where
    nothing can be measured the decision is `inconclusive` and says why.
    """
    found = evidence(rule, trials)
    if isinstance(found, str):
        return RuleDecision(
            rule=rule,
            verdict=Verdict.INCONCLUSIVE,
            estimate=None,
            bound=None,
            why=f"{metric_phrase(rule)} cannot be judged: {found}.",
        )
    lower, upper = found.bounds_at(1.0)
    verdict = judge(rule, lower, upper)
    facts_needed = seeds_needed = None
    if verdict is Verdict.INCONCLUSIVE:
        facts_needed = facts_that_would_settle(rule, found)
        seeds_needed = seeds_that_would_settle(rule, found)
    bound = lower if found.estimate >= threshold_of(rule) else upper
    return RuleDecision(
        rule=rule,
        verdict=verdict,
        estimate=found.estimate,
        bound=bound,
        why=sentence(rule, found, verdict, bound, facts_needed, seeds_needed),
        facts_needed=facts_needed,
        seeds_needed=seeds_needed,
    )


def evidence(rule: GateRule, trials: Sequence[Trial]) -> Evidence | str:
    """What the rule's metric was found to be, or why it could not be measured."""
    if not any(trial.ran(Arm.EDITED) for trial in trials):
        return "the edited model was not measured"
    if rule.metric in AFTER_TUNING and not any(trial.ran(trial.after.edited) for trial in trials):
        return f"no {trials[0].after.done} of the edited model was measured"
    facts = max(1, len(efficacy(trials, rule.mode).facts))
    seeds = sum(trial.ran(trial.after.edited) for trial in trials)
    if rule.metric == EXCESS_DECAY:
        edits, controls = (retention(trials, kind, rule.mode) for kind in (FactKind.EDIT, FactKind.CONTROL))
        edit_share, control_share = share_of(edits), share_of(controls)
        if edit_share is None or control_share is None:
            side = "edit" if edit_share is None else "control fact"
            return f"no {side} was right just before tuning"
        counted = (
            f"controls {controls.numerator} of {controls.denominator}, "
            f"edits {edits.numerator} of {edits.denominator} kept"
        )
        return Evidence(
            estimate=control_share.value - edit_share.value,
            counted=counted,
            facts=facts,
            bounds_at=lambda factor: exact_difference_bounds(
                scaled(control_share, factor), scaled(edit_share, factor)
            ),
            seeds=seeds,
            bounds_over=lambda factor: difference_bounds_over(controls, edits, factor),
        )
    counts = SHARES[rule.metric][1](trials, rule)
    share = share_of(counts)
    if share is None:
        return NOTHING_MEASURED[rule.metric]
    return Evidence(
        estimate=share.value,
        counted=f"{counts.numerator} of {counts.denominator}",
        facts=max(facts, len(counts.facts)),
        bounds_at=lambda factor: exact_bounds(scaled(share, factor)),
        seeds=seeds,
        bounds_over=lambda factor: bounds_over(counts, factor) if rule.metric in AFTER_TUNING else None,
    )


def bounds_over(counts: FactCounts, factor: float) -> tuple[float, float] | None:
    """Bounds of a share with `factor` times as many seeds."""
    share = with_more_seeds(counts, factor)
    return None if share is None else exact_bounds(share)


def difference_bounds_over(
    minuend: FactCounts, subtrahend: FactCounts, factor: float
) -> tuple[float, float] | None:
    """Bounds of a difference of shares with `factor` times as many seeds."""
    first, second = with_more_seeds(minuend, factor), with_more_seeds(subtrahend, factor)
    return None if first is None or second is None else exact_difference_bounds(first, second)


def scaled(share: Share, factor: float) -> Share:
    """The same share, measured on `factor` times as many facts."""
    return Share(share.value, share.effective_trials * factor)


def judge(rule: GateRule, lower: float, upper: float) -> Verdict:
    """Compare one-sided bounds with the rule's threshold."""
    if rule.at_least is not None:
        cleared, missed = lower >= rule.at_least, upper < rule.at_least
    else:
        cleared, missed = upper <= threshold_of(rule), lower > threshold_of(rule)
    if cleared:
        return Verdict.PASS
    return Verdict.FAIL if missed else Verdict.INCONCLUSIVE


def threshold_of(rule: GateRule) -> float:
    """The number that the rule compares with."""
    threshold = rule.at_least if rule.at_least is not None else rule.at_most
    if threshold is None:
        raise ValueError("a gate rule has a threshold")
    return threshold


def at_threshold(rule: GateRule, found: Evidence) -> bool:
    """Whether the estimate is the threshold itself, but for rounding."""
    return isclose(found.estimate, threshold_of(rule), rel_tol=0.0, abs_tol=1e-12)


def facts_that_would_settle(rule: GateRule, found: Evidence) -> int | None:
    """The fewest edits at which the rule would be settled; None where a million would not do.

    The estimate, the seeds, the share of edits that count and the ratio of controls stay as they are.
    """

    def settled(facts: int) -> bool:
        return judge(rule, *found.bounds_at(facts / found.facts)) is not Verdict.INCONCLUSIVE

    if at_threshold(rule, found) or not settled(MAX_FACTS_NEEDED):
        return None
    unsettled, enough = found.facts, MAX_FACTS_NEEDED
    for _ in range(int(log2(MAX_FACTS_NEEDED)) + 1):
        middle = (unsettled + enough) // 2
        if settled(middle):
            enough = middle
        else:
            unsettled = middle
    return enough


def seeds_that_would_settle(rule: GateRule, found: Evidence) -> int | None:
    """The fewest seeds at which the rule would be settled, the facts staying as they are.

    None where 20, the most that an audit takes, would not do, or where it cannot be told.
    """
    if at_threshold(rule, found):
        return None
    for seeds in range(found.seeds + 1, MAX_SEEDS_NEEDED + 1):
        bounds = found.bounds_over(seeds / found.seeds)
        if bounds is None:
            return None
        if judge(rule, *bounds) is not Verdict.INCONCLUSIVE:
            return seeds
    return None


def metric_phrase(rule: GateRule) -> str:
    """The metric in words, with its mode."""
    name = "excess decay of edits" if rule.metric == EXCESS_DECAY else SHARES[rule.metric][0]
    return f"{name.capitalize()} ({rule.mode})"


def sentence(
    rule: GateRule,
    found: Evidence,
    verdict: Verdict,
    bound: float,
    facts_needed: int | None,
    seeds_needed: int | None,
) -> str:
    """The decision as one English sentence with its numbers."""
    number = points if rule.metric == EXCESS_DECAY else percent
    threshold = threshold_of(rule)
    wanted = f"{'at least' if rule.at_least is not None else 'at most'} {number(threshold)}"
    side = "at least" if found.estimate >= threshold else "at most"
    told = f"{metric_phrase(rule)} is {number(found.estimate)} ({found.counted})"
    if verdict is not Verdict.INCONCLUSIVE:
        clears = "as required" if verdict is Verdict.PASS else "but"
        required = f"({wanted})" if verdict is Verdict.PASS else f"{wanted} is required"
        return f"{told}; with 95 % confidence it is {side} {number(bound)}, {clears} {required}."
    if at_threshold(rule, found):
        return f"{told}, exactly the threshold, which no number of edits would settle."
    if facts_needed is None:
        remedy = f"more than {MAX_FACTS_NEEDED:,} edits would be needed to settle it"
    else:
        remedy = (
            f"about {facts_needed:,} edits would settle it at this estimate ({found.facts:,} were probed)"
        )
    if seeds_needed is not None:
        remedy += f", or about {seeds_needed} seeds ({found.seeds} were run)"
    return f"{told}; {wanted} is required and the 95 % bound is {number(bound)}, so {remedy}."


def combine(decisions: Sequence[RuleDecision], *, every_trial_succeeded: bool) -> Verdict:
    """`fail` if any decision fails; `pass` only if all pass and nothing planned is missing."""
    verdicts = {decision.verdict for decision in decisions}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if verdicts == {Verdict.PASS} and every_trial_succeeded:
        return Verdict.PASS
    return Verdict.INCONCLUSIVE
