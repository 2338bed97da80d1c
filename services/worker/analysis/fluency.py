"""How much worse, or better, models write and read after editing and tuning: means over texts."""

from __future__ import annotations

from math import exp, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from services.worker.analysis.intervals import LEVEL
from shared.reports import FluencyMetric, Interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from services.worker.analysis.inputs import Trial
    from shared.measurement import Arm
    from shared.reports import FluencySample

    Array = NDArray[np.float64]

METHOD = "t over texts"
LARGEST_EXPONENT = 700.0  # of a number that JSON and float64 can hold
ENTROPY = (
    "½ (⅔ H₂ + 4⁄3 H₃), the entropies of a text's bigrams and trigrams in bits: mean over texts that the "
    "model writes after edits' prompts, drawn from its own distribution with the same chance at every arm"
)
PERPLEXITY = (
    "e to the power of the mean negative log-likelihood per token, over plain English from documentation "
    "that no recipe of the service trains on"
)
MENG = "Meng et al. 2022, arXiv 2202.05262 (GE)"
PLAIN = "standard"


def fluency_metrics(trials: Sequence[Trial]) -> list[FluencyMetric]:
    """Both metrics at every arm at which they were measured."""
    arms = list(dict.fromkeys(arm for trial in trials for arm in trial.fluency))
    return [
        metric for arm in arms for metric in of_arm(arm, [t.fluency[arm] for t in trials if arm in t.fluency])
    ]


def of_arm(arm: Arm, samples: Sequence[FluencySample]) -> Iterable[FluencyMetric]:
    """Texts are what is drawn: their means over seeds are what the interval is taken over."""
    bits = np.array([sample.entropies for sample in samples])  # (seeds, texts)
    if bits.size:
        mean, interval = mean_with_interval(bits.mean(axis=0), np.ones(bits.shape[1]))
        yield FluencyMetric(
            name="n-gram entropy",
            arm=arm,
            numerator=float(bits.sum()),
            denominator=bits.size,
            value=mean,
            interval=interval,
            how=ENTROPY,
            source=MENG,
        )
    nats, tokens = (np.array([getattr(sample, part) for sample in samples]) for part in ("nats", "tokens"))
    if nats.size:
        mean, interval = mean_with_interval(nats.mean(axis=0), tokens.mean(axis=0))
        yield FluencyMetric(
            name="perplexity",
            arm=arm,
            numerator=float(nats.sum()),
            denominator=int(tokens.sum()),
            value=power(mean),
            interval=powers(interval),
            how=PERPLEXITY,
            source=PLAIN,
        )


def mean_with_interval(sums: Array, weights: Array) -> tuple[float, Interval | None]:
    """Σ sums / Σ weights over texts, and its t interval by the linearised variance of a ratio.

    sums, weights: (texts,) float64. No interval of a single text.
    """
    mean = float(sums.sum() / weights.sum())
    count = len(sums)
    if count < 2:
        return mean, None
    residuals = sums - mean * weights
    error = sqrt(count / (count - 1) * float((residuals**2).sum())) / float(weights.sum())
    half = float(stats.t.isf((1 - LEVEL) / 2, count - 1)) * error
    return mean, Interval(low=mean - half, high=mean + half, level=LEVEL, method=METHOD)


def power(exponent: float) -> float | None:
    """e to the power, unless no number is so large."""
    return exp(exponent) if exponent <= LARGEST_EXPONENT else None


def powers(interval: Interval | None) -> Interval | None:
    """Limits of the perplexity from those of its logarithm."""
    if interval is None or interval.high > LARGEST_EXPONENT:
        return None
    return interval.model_copy(update={"low": exp(interval.low), "high": exp(interval.high)})
