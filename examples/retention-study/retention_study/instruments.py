"""Two instruments for one comparison, as the seed study has them: their gap, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TypeVar

from services.worker.analysis.intervals import LEVEL
from shared.measurement import Mode
from shared.reports import ConfigurationReport, Difference, Interval, Metric

Measured = TypeVar("Measured", Metric, Difference)


def gap_of_two(found: ConfigurationReport) -> tuple[Metric, Metric, Difference]:
    """Retention of edits by first token, that of controls by what 50 greedy tokens contain, and the gap."""
    edits = of_mode(found.retention_edits, Mode.FIRST_TOKEN)
    controls = of_mode(found.retention_controls, Mode.CONTAINS)
    return edits, controls, difference(controls, edits)


def of_mode(found: Sequence[Measured], mode: Mode) -> Measured:
    """The one in this mode."""
    return next(part for part in found if part.mode is mode)


def difference(minuend: Metric, subtrahend: Metric) -> Difference:
    """One share − another of other facts, with Newcombe's (1998) interval, method 10.

    It is made of the limits of the two Wilson intervals, which allow for answers clustered by fact.
    """
    value = interval = None
    if minuend.value is not None and subtrahend.value is not None:
        value = minuend.value - subtrahend.value
        first, second = minuend.interval, subtrahend.interval
        if first is not None and second is not None:
            below = sqrt((minuend.value - first.low) ** 2 + (second.high - subtrahend.value) ** 2)
            above = sqrt((first.high - minuend.value) ** 2 + (subtrahend.value - second.low) ** 2)
            interval = Interval(low=value - below, high=value + above, level=LEVEL, method="newcombe")
    return Difference(
        name="gap",
        mode=minuend.mode,
        value=value,
        interval=interval,
        edits=subtrahend.denominator,
        controls=minuend.denominator,
    )
