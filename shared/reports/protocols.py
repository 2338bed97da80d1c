"""The metrics of other protocols, under their own names."""

from __future__ import annotations

from shared.measurement import Arm
from shared.reports.parts import Interval, ReportPart


class ProtocolMetric(ReportPart):
    """A mean over records (edits, seeds pooled) as another publication defines it.

    name: the publication's own; mode: what is counted of a record; numerator: the sum over the records,
    whose number is the denominator. Of a harmonic mean both are None. how: the definition; source: where it
    is from.
    """

    protocol: str
    name: str
    arm: Arm
    mode: str
    numerator: float | None
    denominator: int | None
    value: float | None
    interval: Interval | None
    how: str
    source: str
