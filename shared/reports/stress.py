"""What a report says of an edited model under a stressor."""

from __future__ import annotations

from pydantic import Field

from shared.gate import StressConfiguration
from shared.reports.configurations import RuleDecision, TrialOutcome
from shared.reports.fluency import FluencyMetric
from shared.reports.parts import Difference, Metric, ReportPart
from shared.states import Verdict


class Footprint(ReportPart):
    """How far the edited model's weights were moved, of those that the stressor is about.

    changed_share: of them, how many have another value; distance: ‖after − before‖ / ‖before‖ (Frobenius).
    """

    changed_share: float
    distance: float


class FurtherEditsMade(ReportPart):
    """How many further edits were made, and how many the model then answered exactly; over all seeds."""

    made: int
    taken: int


class StressReport(ReportPart):
    """Everything measured for one edited model under one stressor, seeds pooled.

    Arms are `base`, `base→stressed`, `edited` and `edited→stressed`; retention and what follows from it
    compare the last two. description: what was done. superseded: of the first edits that further ones
    overwrite and that were right, those that are no more, as is meant; all else leaves these edits out.
    """

    configuration: StressConfiguration
    description: str
    verdict: Verdict | None  # None where no rule of the gate speaks of it
    decisions: list[RuleDecision]
    trials: list[TrialOutcome]
    shares: list[Metric]
    retention_edits: list[Metric]  # one per mode
    retention_controls: list[Metric]
    excess_decay: list[Difference]
    excess_decay_matched: list[Difference]
    reversion: Metric  # headline mode
    interaction: list[Difference]
    footprint: Footprint | None = None
    further_edits: FurtherEditsMade | None = None
    superseded: Metric | None = None  # headline mode
    fluency: list[FluencyMetric] = Field(default_factory=list)  # none unless asked for
