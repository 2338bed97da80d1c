"""What a report says of each configuration, and of one against another."""

from __future__ import annotations

from pydantic import Field

from shared.reports.deaths import LostEdit, WeightDrift
from shared.reports.fluency import FluencyMetric
from shared.reports.parts import PER_TOKEN, Difference, Metric, ReportPart
from shared.reports.protocols import ProtocolMetric
from shared.reports.survival import Survival
from shared.requests import Configuration, GateRule
from shared.states import StepStatus, Verdict


class CurvePoint(ReportPart):
    """Retention of edits and of controls after `tuning_step` optimiser steps, pooled over seeds.

    The last point is the end of each seed's tuning, at the latest of their ends.
    """

    tuning_step: int
    edits: Metric
    controls: Metric


class RuleDecision(ReportPart):
    """What one gate rule says of one configuration, and why.

    `bound` is the one-sided 95 % bound on the side that matters. `facts_needed` is the number of
    facts (at this point estimate and the present seeds) that would settle an inconclusive rule,
    where one would; `seeds_needed` the number of seeds of these facts that would, where more than one was
    run, so that it can be told.
    """

    rule: GateRule
    verdict: Verdict
    estimate: float | None
    bound: float | None
    why: str
    facts_needed: int | None = None
    seeds_needed: int | None = None


class TrialOutcome(ReportPart):
    """How one seed of a configuration went.

    steps, base_steps: optimiser steps that the edited model, and the base model beside it, were tuned for;
    None where it was not recorded. Recipes that stop early may end at different ones.
    """

    seed: int
    status: StepStatus
    step_id: str
    error: str | None = None
    reused: bool = False
    held_out_loss_before: float | None = None
    held_out_loss_after: float | None = None
    held_out_loss_unit: str = PER_TOKEN
    steps: int | None = None
    base_steps: int | None = None


class ConfigurationReport(ReportPart):
    """Everything measured for one configuration, seeds pooled."""

    configuration: Configuration
    verdict: Verdict | None  # None where no rule of the gate speaks of it
    decisions: list[RuleDecision]
    trials: list[TrialOutcome]
    shares: list[Metric]  # share right per arm, kind of fact, kind of probe and mode
    retention_edits: list[Metric]  # one per mode
    retention_controls: list[Metric]
    excess_decay: list[Difference]  # raw, one per mode
    excess_decay_matched: list[Difference]  # controls matched on relation and margin before tuning
    reversion: Metric  # headline mode
    locality: list[Metric]  # neighbourhood probes right in the base model that the editor spared, per mode
    interaction: list[Difference]  # difference in differences of the controls' share right, per mode
    curve: list[CurvePoint]  # headline mode
    fluency: list[FluencyMetric] = Field(default_factory=list)  # none unless asked for
    protocols: list[ProtocolMetric] = Field(default_factory=list)  # by the definitions of others
    survival: Survival | None = None  # headline mode; None in reports of before it was measured
    lost_edits: list[LostEdit] = Field(default_factory=list)  # headline mode; the riskiest, see the next
    lost_edits_left_out: int = 0  # lost as well, but not listed
    drift: list[WeightDrift] = Field(default_factory=list)  # none where the editor wrote no weights
