"""The report of an audit: metrics as data, decisions with their reasons."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from shared.measurement import Mode
from shared.reports.configurations import ConfigurationReport
from shared.reports.deaths import Association, RiskyEdit
from shared.reports.editing import Editing, KeyStatisticsUsed, Tracing
from shared.reports.mitigations import Mitigation
from shared.reports.overlap import RecipeOverlap
from shared.reports.parts import ReportPart
from shared.reports.stress import StressReport
from shared.states import Cause, StepStatus, Verdict


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
    stress: list[StressReport] = Field(default_factory=list)
    mitigations: list[Mitigation]  # ranked, best first
    riskiest: list[RiskyEdit] = Field(default_factory=list)  # over all configurations
    lost_with: list[Association] = Field(default_factory=list)  # what goes with the loss of edits
    overlap: list[RecipeOverlap] = Field(default_factory=list)  # of training data with the facts
    editing: list[Editing] = Field(default_factory=list)
    tracing: Tracing | None = None  # where some editor's layers were left to it
    key_statistics: list[KeyStatisticsUsed] = Field(default_factory=list)
    problems: list[StepProblem]
    warnings: list[str]
    provenance: Provenance
