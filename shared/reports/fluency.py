"""How fluently a model writes, and how well it reads plain English."""

from __future__ import annotations

from shared.measurement import Arm
from shared.reports.parts import Interval, ReportPart


class FluencySample(ReportPart):
    """What was measured of one model, text by text, in an order that all models share.

    entropies: of the n-grams of each text that it wrote, in bits; nats: what each plain text cost it
    (negative log-likelihood, summed over tokens), and of how many tokens.
    """

    entropies: list[float]
    nats: list[float]
    tokens: list[int]


class FluencyMetric(ReportPart):
    """`n-gram entropy` (bits) or `perplexity` at an arm, seeds pooled.

    numerator, denominator: of the mean that it is made of: bits over texts; nats over tokens, of which the
    perplexity is e to the power. value is None where it is beyond all measure.
    """

    name: str
    arm: Arm
    numerator: float
    denominator: int
    value: float | None
    interval: Interval | None
    how: str
    source: str
