"""The report of an audit: metrics as data, decisions with their reasons."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.requests import Configuration, GateRule
from shared.states import Cause, StepStatus, Verdict


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
    """A share: numerator over denominator, with how it was scored. `value` is None over nothing."""

    name: str
    mode: Mode
    arm: Arm | None = None
    fact_kind: FactKind | None = None
    probe_kind: ProbeKind | None = None
    numerator: int
    denominator: int
    value: float | None
    interval: Interval | None


class Difference(ReportPart):
    """A difference of shares (excess decay, retention gained), with a bootstrap interval."""

    name: str
    mode: Mode
    value: float | None
    interval: Interval | None
    edits: int
    controls: int


class CurvePoint(ReportPart):
    """Retention of edits and of controls after `tuning_step` optimiser steps, pooled over seeds."""

    tuning_step: int
    edits: Metric
    controls: Metric


class RuleDecision(ReportPart):
    """What one gate rule says of one configuration, and why.

    `bound` is the one-sided 95 % bound on the side that matters. `facts_needed` is the number of
    facts (at this point estimate and the present seeds) that would settle an inconclusive rule,
    where one would.
    """

    rule: GateRule
    verdict: Verdict
    estimate: float | None
    bound: float | None
    why: str
    facts_needed: int | None = None


class TrialOutcome(ReportPart):
    """How one seed of a configuration went."""

    seed: int
    status: StepStatus
    step_id: str
    error: str | None = None
    reused: bool = False
    held_out_loss_before: float | None = None
    held_out_loss_after: float | None = None


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


class Mitigation(ReportPart):
    """A configuration against its plain sibling (no paraphrases, nothing frozen, same editor and recipe)."""

    configuration: Configuration
    against: Configuration
    retention_gained: Difference
    task_loss_cost: float | None  # held-out loss after tuning − the sibling's, nats per token
    locality_cost: float | None  # share of neighbourhood probes right: the sibling's − this one's
    rank: int


class StepProblem(ReportPart):
    """A step that did not succeed, so that what is missing from the report is named."""

    step_id: str
    title: str
    status: StepStatus
    cause: Cause | None
    error: str | None


class Provenance(ReportPart):
    """What it takes to run the audit again: versions, revision, hashes, seeds, hardware."""

    holdfast_version: str
    python_version: str
    packages: dict[str, str]
    model: str
    model_revision: str
    dtype: str
    edit_set_hash: str
    data_hashes: dict[str, str]  # recipe name → hash of the records used
    seeds: list[int]
    device: str
    platform: str
    threads: int


class Report(ReportPart):
    """What an audit found."""

    audit_id: str
    created_at: datetime
    verdict: Verdict
    why: str
    headline_mode: Mode
    edits: int
    controls: int
    control_candidates: int
    configurations: list[ConfigurationReport]
    mitigations: list[Mitigation]  # ranked, best first
    problems: list[StepProblem]
    warnings: list[str]
    provenance: Provenance
