"""Kaplan–Meier estimates over the probed steps of tuning, with intervals clustered by fact.

A loss is seen at probes only, so it is dated to the first probe that is wrong. That moves no point of the
curve: all facts of a trial are probed at the same steps, where the estimate is the one that Turnbull's
(1976) for interval-censored times gives. Between two probes the curve is known only to fall from one value
to the other, and is drawn as a step at the later one. What was never wrong is censored at its last probe.
Pooled trials share the steps of the curve, the last of which is the end of each (`lifetimes.common_steps`).

The trials of one fact under several seeds are alike. Pooled, they leave the estimate unbiased, but
Greenwood's variance, which takes them for independent, is then too small. It is replaced by the variance
of the sum of each fact's influences (Ying & Wei 1994; Williams 1995), which is Greenwood's exactly where
every fact has one trial. A bootstrap that resamples facts estimates the same number with more noise, and
knows no uncertainty where nothing was lost; `tests/worker/analysis/test_kaplan_meier.py` compares the two.
"""

from __future__ import annotations

from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from services.worker.analysis.intervals import LEVEL
from services.worker.analysis.lifetimes import LifeTable
from shared.reports import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

METHOD = "log-log, Greenwood's variance clustered by fact"
EXACT_METHOD = "exact, on facts"


def kaplan_meier(table: LifeTable) -> Array:
    """S(t) = Π (1 − d/n) over the steps until t (Kaplan & Meier 1958), (steps,) float64."""
    at_risk, lost = table.at_risk.sum(axis=0), table.lost.sum(axis=0)
    survived: Array = np.cumprod(1 - lost / np.maximum(at_risk, 1))
    return survived


def greenwood_variance(at_risk: Array, lost: Array) -> Array:
    """Variance of log S(t), Σ d / (n (n − d)) over the steps until t; infinite once nothing is left.

    at_risk, lost: (steps,) float64. Var S(t) = S(t)² times this (Greenwood 1926).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(lost > 0, lost / (at_risk * (at_risk - lost)), 0.0)
    found: Array = np.cumsum(terms)
    return found


def clustered_variance(table: LifeTable) -> Array:
    """Variance of log S(t) from the influences of whole facts, (steps,) float64.

    A fact's influence is Σ (d_i − n_i d/n) / (n − d) over the steps until t, d_i and n_i its own trials lost
    and at risk (Williams 1995, eq. 3). With one trial per fact the squares add up to Greenwood's sum.
    Needs a table of which something is left at the end.
    """
    at_risk, lost = table.at_risk.sum(axis=0), table.lost.sum(axis=0)
    share = np.divide(lost, at_risk, out=np.zeros_like(lost), where=at_risk > 0)
    left = at_risk - lost
    steps = np.divide(table.lost - table.at_risk * share, left, out=np.zeros_like(table.lost), where=left > 0)
    found: Array = (steps.cumsum(axis=1) ** 2).sum(axis=0)
    return found


def survival_design_effect(table: LifeTable) -> Array:
    """Clustered variance over Greenwood's at each step, (steps,) float64.

    Held between 1 and Kish's Σ trials² / Σ trials, and estimated with two facts more, one never lost and
    one lost at the first loss of all: as `intervals.design_effect`, with which it agrees where every trial
    is followed to the same step.
    """
    sizes = table.trials
    ceiling = float((sizes**2).sum() / sizes.sum())
    losses = np.flatnonzero(table.lost.sum(axis=0))
    if len(table.facts) < 2 or not len(losses):
        return np.full(len(table.steps), ceiling)
    kept_at_risk, kept_lost = np.full((1, len(table.steps)), ceiling), np.zeros((1, len(table.steps)))
    gone_at_risk, gone_lost = kept_at_risk.copy(), kept_lost.copy()
    gone_at_risk[:, losses[0] + 1 :] = 0.0
    gone_lost[:, losses[0]] = ceiling
    smoothed = LifeTable(
        (*table.facts, "kept", "gone"),
        table.steps,
        np.vstack([table.at_risk, kept_at_risk, gone_at_risk]),
        np.vstack([table.lost, kept_lost, gone_lost]),
    )
    plain = greenwood_variance(smoothed.at_risk.sum(axis=0), smoothed.lost.sum(axis=0))
    facts = len(smoothed.facts)
    clustered = facts / (facts - 1) * clustered_variance(smoothed)
    ratio = np.divide(clustered, plain, out=np.full_like(plain, ceiling), where=plain > 0)
    found: Array = np.clip(ratio, 1.0, ceiling)
    return found


def log_variance(table: LifeTable) -> Array:
    """Variance of log S(t) that the intervals use: Greenwood's times the design effect."""
    plain = greenwood_variance(table.at_risk.sum(axis=0), table.lost.sum(axis=0))
    found: Array = plain * survival_design_effect(table)
    return found


def log_log_limits(value: float, variance: float, level: float = LEVEL) -> tuple[float, float]:
    """Limits S^exp(±z σ / |log S|) of a survival share between 0 and 1 (Kalbfleisch & Prentice 1980).

    value: S; variance: σ², of log S.
    """
    spread = exp(float(stats.norm.isf((1 - level) / 2)) * sqrt(variance) / abs(log(value)))
    return value**spread, value ** (1 / spread)


def exact_limits(value: float, facts: float, level: float = LEVEL) -> tuple[float, float]:
    """Limits of a share over so many facts, which need not be whole (Clopper & Pearson 1934)."""
    tail, facts = (1 - level) / 2, max(facts, 1.0)
    kept, lost = value * facts, (1 - value) * facts
    low = float(stats.beta.ppf(tail, kept, lost + 1)) if value > 0 else 0.0
    high = float(stats.beta.isf(tail, kept + 1, lost)) if value < 1 else 1.0
    return low, high


def survival_intervals(table: LifeTable, level: float = LEVEL) -> list[Interval]:
    """Two-sided intervals of S(t), one per step.

    Where nothing or everything is lost, log-log limits do not exist, and where less than one fact's worth is
    lost they are of no use (a fact may have many trials); there they are the exact binomial ones for as many
    facts as were followed, each counted once.
    """
    values, variances = kaplan_meier(table), log_variance(table)
    at_risk, lost = table.at_risk.sum(axis=0), table.lost.sum(axis=0)
    sizes = table.trials
    ceiling = float((sizes**2).sum() / sizes.sum())
    found = []
    for value, variance, followed, lost_so_far in zip(
        values.tolist(), variances.tolist(), at_risk.tolist(), np.cumsum(lost).tolist(), strict=True
    ):
        if 0 < value < 1 and lost_so_far >= ceiling:
            (low, high), method = log_log_limits(value, variance, level), METHOD
        else:
            facts = (followed if value else float(sizes.sum())) / ceiling
            (low, high), method = exact_limits(value, facts, level), EXACT_METHOD
        found.append(Interval(low=low, high=high, level=level, method=method))
    return found
