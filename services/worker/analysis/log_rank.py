"""Do edits and controls last equally long? The log-rank test, and the ratio of their hazards."""

from __future__ import annotations

from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from services.worker.analysis.intervals import LEVEL
from services.worker.analysis.kaplan_meier import kaplan_meier, log_variance
from shared.reports import Interval, LogRank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.worker.analysis.lifetimes import LifeTable

    Array = NDArray[np.float64]

METHOD = "log-rank (Mantel 1966)"
CLUSTERED_METHOD = "log-rank, variance over permutations of whole facts"
RATIO_METHOD = "log-log, delta method, clustered by fact"


def log_rank(edits: LifeTable, controls: LifeTable) -> LogRank | None:
    """The test, on tables over the same steps; None where nothing was lost, or all of it at once.

    Where every fact has one trial it is Mantel's. Where facts have several, under seeds that share the
    fact, whole facts are what could have been edited or not: the variance is that over permutations of
    the facts between the two sides. Edits and controls are probed at the same steps of the same trials,
    so that, under the hypothesis, they may be permuted.
    """
    alike = bool((edits.trials == 1).all() and (controls.trials == 1).all())
    variance = hypergeometric_variance(edits, controls) if alike else permutation_variance(edits, controls)
    if variance <= 0:
        return None
    chi_squared = excess_losses(edits, controls) ** 2 / variance
    ratio, interval = hazard_ratio(edits, controls)
    return LogRank(
        chi_squared=chi_squared,
        p_value=float(stats.chi2.sf(chi_squared, 1)),
        hazard_ratio=ratio,
        hazard_ratio_interval=interval,
        method=METHOD if alike else CLUSTERED_METHOD,
    )


def residuals(edits: LifeTable, controls: LifeTable) -> tuple[Array, Array]:
    """Losses of each fact − those expected were all facts alike: Σ (d_i − n_i d/n) over the steps.

    Returns (edits,) and (controls,) float64, which add up to zero together.
    """
    at_risk = edits.at_risk.sum(axis=0) + controls.at_risk.sum(axis=0)
    lost = edits.lost.sum(axis=0) + controls.lost.sum(axis=0)
    share = np.divide(lost, at_risk, out=np.zeros_like(lost), where=at_risk > 0)
    first, second = ((table.lost - table.at_risk * share).sum(axis=1) for table in (edits, controls))
    return first, second


def excess_losses(edits: LifeTable, controls: LifeTable) -> float:
    """Edits lost − those expected at each step were edits and controls alike (Mantel 1966)."""
    return float(residuals(edits, controls)[0].sum())


def hypergeometric_variance(edits: LifeTable, controls: LifeTable) -> float:
    """Variance of the excess losses, Σ d (n − d) n₁ n₂ / (n² (n − 1)), trials independent."""
    first, second = edits.at_risk.sum(axis=0), controls.at_risk.sum(axis=0)
    at_risk, lost = first + second, edits.lost.sum(axis=0) + controls.lost.sum(axis=0)
    several = at_risk > 1
    terms = lost * (at_risk - lost) * first * second
    return float((terms[several] / (at_risk[several] ** 2 * (at_risk[several] - 1))).sum())


def permutation_variance(edits: LifeTable, controls: LifeTable) -> float:
    """Variance of the excess losses over all ways to call N₁ of the N facts edits.

    N₁ N₂ / (N (N − 1)) Σ R², R the residuals of whole facts, whose mean is zero (Cochran 1977, eq. 2.11).
    """
    first, second = residuals(edits, controls)
    edited, others = len(first), len(second)
    facts = edited + others
    squares = float((first**2).sum() + (second**2).sum())
    return edited * others / (facts * (facts - 1)) * squares


def hazard_ratio(
    edits: LifeTable, controls: LifeTable, level: float = LEVEL
) -> tuple[float | None, Interval | None]:
    """Cumulative hazard of edits over that of controls at the last step, log S₁ / log S₂.

    Under proportional hazards this is their ratio, however coarsely losses are dated: a score or partial
    likelihood would have to break the many ties of few probes. None where a side lost nothing or all.
    """
    logs, variance = [], 0.0
    for table in (edits, controls):
        value = float(kaplan_meier(table)[-1])
        if not 0 < value < 1:
            return None, None
        logs.append(log(-log(value)))
        variance += float(log_variance(table)[-1]) / log(value) ** 2
    difference = logs[0] - logs[1]
    reach = float(stats.norm.isf((1 - level) / 2)) * sqrt(variance)
    interval = Interval(
        low=exp(difference - reach), high=exp(difference + reach), level=level, method=RATIO_METHOD
    )
    return exp(difference), interval
