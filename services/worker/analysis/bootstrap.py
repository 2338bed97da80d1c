"""A bootstrap of statistics that are functions of sums over facts; whole facts are resampled.

The plain percentile bootstrap knows no uncertainty where all answers agree: with 5 edits, 85 % of which
are kept in truth, its 95 % interval of excess decay covers 53 % of the time, with 20 edits and 95 % kept
73 % of the time (and acceleration, BCa, is undefined there). So facts are drawn from the data and from
two facts more, one of each outcome, which is what Agresti & Caffo (2000) and, for pairs, Agresti & Min
(2005) add to make Wald intervals cover. The estimate itself is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.intervals import LEVEL
from shared.reports import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from services.worker.analysis.counts import FactCounts

    Array = NDArray[np.float64]

RESAMPLES = 2_000
METHOD = "smoothed bootstrap clustered by fact"
ADDED_FACTS = 2.0
MAX_DRAWN_AT_ONCE = 4_000_000  # int64 counts, 32 MB


@dataclass(frozen=True)
class Sample:
    """Facts that are resampled together, and what is added to them.

    rows: (facts, columns) float64, the contributions of each fact to the sums of a statistic.
    added: (outcomes, columns) float64 and shares: (outcomes,) float64, the outcomes that the two
    facts more may have, and how they are split among them (sums to 1).
    """

    rows: Array
    added: Array
    shares: Array


def share_sample(successes: Array, trials: Array) -> Sample:
    """Sums (successes, trials) of one share; successes, trials: (facts,) float64, weighted or not."""
    size = typical_size(trials)
    return Sample(
        rows=np.column_stack([successes, trials]),
        added=np.array([[0.0, size], [size, size]]),
        shares=np.array([0.5, 0.5]),
    )


def paired_shares_sample(first: FactCounts, second: FactCounts) -> Sample:
    """Sums (successes, trials, successes, trials) of two shares over the same facts."""
    facts = tuple(sorted({*first.facts, *second.facts}))
    one, other = typical_size(first.trials), typical_size(second.trials)
    return Sample(
        rows=np.column_stack([first.aligned(facts), second.aligned(facts)]),
        added=np.array([[a * one, one, b * other, other] for a in (0.0, 1.0) for b in (0.0, 1.0)]),
        shares=np.full(4, 0.25),
    )


def paired_change_sample(changes: Array, trials: Array) -> Sample:
    """Sums (changes, trials) of a mean change within facts, between −1 and 1 per trial."""
    size = typical_size(trials)
    return Sample(
        rows=np.column_stack([changes, trials]),
        added=np.array([[-size, size], [0.0, size], [size, size]]),
        shares=np.array([0.25, 0.5, 0.25]),
    )


def typical_size(trials: Array) -> float:
    """Trials of the fact that a trial drawn at random belongs to, on average: Σ trials² / Σ trials."""
    return float((trials**2).sum() / trials.sum())


def bootstrap_interval(
    statistic: Callable[[Array], Array],
    samples: Sequence[Sample],
    value: float,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of `statistic`, widened where needed to hold `value`, the estimate.

    statistic: takes the sums of all samples side by side, (resamples, columns), and returns (resamples,);
    not a number where a resample leaves it undefined.
    """
    generator = np.random.default_rng(seed)
    sums = np.hstack([resampled_sums(sample, generator, resamples) for sample in samples])
    drawn = statistic(sums)
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (value, value)
    return Interval(low=min(float(low), value), high=max(float(high), value), level=level, method=METHOD)


def resampled_sums(sample: Sample, generator: np.random.Generator, resamples: int) -> Array:
    """Sums over resampled facts: (resamples, columns) float64.

    Facts with equal contributions are drawn as one class, which changes nothing but the speed.
    """
    classes, sizes = np.unique(sample.rows, axis=0, return_counts=True)
    facts = len(sample.rows)
    classes = np.vstack([classes, sample.added])
    weights = np.concatenate([sizes.astype(np.float64), ADDED_FACTS * sample.shares])
    weights /= weights.sum()
    at_once = max(1, MAX_DRAWN_AT_ONCE // len(classes))
    parts = [
        generator.multinomial(facts + int(ADDED_FACTS), weights, size=min(at_once, resamples - start))
        @ classes
        for start in range(0, resamples, at_once)
    ]
    return np.concatenate(parts)


def ratio(numerators: Array, denominators: Array) -> Array:
    """Elementwise quotient; not a number where the denominator is zero."""
    quotient = np.full(numerators.shape, np.nan)
    np.divide(numerators, denominators, out=quotient, where=denominators > 0)
    return quotient


def difference_of_shares(sums: Array) -> Array:
    """First share minus second, from columns (successes, trials, successes, trials)."""
    return ratio(sums[:, 0], sums[:, 1]) - ratio(sums[:, 2], sums[:, 3])


def mean_change(sums: Array) -> Array:
    """Change per trial, from columns (changes, trials)."""
    return ratio(sums[:, 0], sums[:, 1])
