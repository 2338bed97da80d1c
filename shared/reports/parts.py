"""What reports are made of: shares and differences with their intervals."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from shared.measurement import Arm, FactKind, Mode, ProbeKind

PER_TOKEN, PER_PAIR = "nats per token", "nats per pair"  # of losses: over scored tokens, or over preferences


class ReportPart(BaseModel):
    """Immutable part of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(ReportPart):
    """Two-sided interval at `level` (0.95), and the method that gave it."""

    low: float
    high: float
    level: float
    method: str  # "wilson", "bootstrap clustered by fact", …


class Metric(ReportPart):
    """A share: numerator over denominator. `value` is None over nothing.

    how: what was counted, and when an answer was right, in a sentence or two.
    """

    name: str
    mode: Mode
    arm: Arm | None = None
    fact_kind: FactKind | None = None
    probe_kind: ProbeKind | None = None
    numerator: int
    denominator: int
    value: float | None
    interval: Interval | None
    how: str = ""


class Term(ReportPart):
    """One of the shares that a difference is made of; weighted counts need not be whole."""

    name: str
    arm: Arm
    fact_kind: FactKind
    numerator: float
    denominator: float


class Difference(ReportPart):
    """A difference of shares (excess decay, retention gained), with a bootstrap interval.

    terms: the shares, in the order in which `how` speaks of them.
    """

    name: str
    mode: Mode
    value: float | None
    interval: Interval | None
    edits: int
    controls: int
    terms: list[Term] = Field(default_factory=list)
    how: str = ""
