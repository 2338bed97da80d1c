"""Intervals and bounds of shares whose answers come in clusters: one cluster per fact."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from shared.reports import Interval

if TYPE_CHECKING:
    from services.worker.analysis.counts import FactCounts

LEVEL = 0.95


@dataclass(frozen=True)
class Share:
    """A share and the number of independent trials that its uncertainty is worth."""

    value: float
    effective_trials: float


def design_effect(counts: FactCounts) -> float:
    """Variance of a clustered share over that of as many independent trials (Rao & Scott 1992).

    The variance is the linearised one of the ratio Σ successes / Σ trials. It is held between 1
    (independent) and the value under which all answers of a fact are one and the same, Kish's
    Σ trials² / Σ trials; that ceiling is also taken where nothing can be estimated: under two facts,
    or a share of 0 or 1. Where few facts differ from the rest the estimate is too small as often as
    not, so two facts are added to it, one right throughout and one wrong throughout (as in the
    smoothed bootstrap): without them bounds at 10 to 20 facts failed twice as often as they may.
    With one answer per fact the effect is 1 and everything is the plain formula.
    """
    total = float(counts.trials.sum())
    ceiling = float((counts.trials**2).sum()) / total
    if len(counts.facts) < 2 or counts.numerator in {0, counts.denominator}:
        return ceiling
    trials = np.append(counts.trials, [ceiling, ceiling])
    successes = np.append(counts.successes, [0.0, ceiling])
    share = successes.sum() / trials.sum()
    residuals = successes - share * trials
    variance = len(trials) / (len(trials) - 1) * (residuals**2).sum() / trials.sum() ** 2
    return float(np.clip(variance / (share * (1 - share) / trials.sum()), 1.0, ceiling))


def share_of(counts: FactCounts) -> Share | None:
    """The share with its effective number of trials; None over nothing."""
    if counts.value is None:
        return None
    return Share(counts.value, float(counts.trials.sum()) / design_effect(counts))


def wilson_interval(share: Share, level: float = LEVEL) -> Interval:
    """Two-sided score interval (Wilson 1927) on the effective number of trials."""
    z = float(stats.norm.isf((1 - level) / 2))
    trials, value = share.effective_trials, share.value
    shrink = 1 + z**2 / trials
    centre = (value + z**2 / (2 * trials)) / shrink
    half = z * sqrt(value * (1 - value) / trials + z**2 / (4 * trials**2)) / shrink
    # At 0 and 1 the limit is the share itself; rounding must not move it.
    low = 0.0 if value == 0 else max(0.0, centre - half)
    high = 1.0 if value == 1 else min(1.0, centre + half)
    return Interval(low=low, high=high, level=level, method="wilson")


def exact_bounds(share: Share, confidence: float = LEVEL) -> tuple[float, float]:
    """One-sided lower and upper bounds, each at `confidence` (Clopper & Pearson 1934).

    On a fractional effective number of trials these are the bounds of Korn & Graubard (1998). Gates
    use them because their error rate never exceeds 1 − confidence, while a one-sided Wilson bound's
    does for shares near 1 (7 % at 19 right of 20 against a threshold of 0.8).
    """
    right = share.value * share.effective_trials
    wrong = share.effective_trials - right
    lower = 0.0 if share.value == 0 else float(stats.beta.ppf(1 - confidence, right, wrong + 1))
    upper = 1.0 if share.value == 1 else float(stats.beta.ppf(confidence, right + 1, wrong))
    return lower, upper


def exact_difference_bounds(
    minuend: Share, subtrahend: Share, confidence: float = LEVEL
) -> tuple[float, float]:
    """One-sided lower and upper bounds of minuend − subtrahend, shares of independent sets of facts.

    Newcombe's (1998, method 10) recovery of the variance from single bounds, Zou & Donner (2008),
    applied to the exact bounds: right where a share is 1 and where a set is small.
    """
    first_low, first_high = exact_bounds(minuend, confidence)
    second_low, second_high = exact_bounds(subtrahend, confidence)
    difference = minuend.value - subtrahend.value
    below = sqrt((minuend.value - first_low) ** 2 + (second_high - subtrahend.value) ** 2)
    above = sqrt((first_high - minuend.value) ** 2 + (subtrahend.value - second_low) ** 2)
    return max(-1.0, difference - below), min(1.0, difference + above)
