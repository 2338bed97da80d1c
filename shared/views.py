"""What the service says back: read by the gateway's clients and by our own command line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.recipes import Objective
from shared.states import AuditStatus, Cause, StepKind, StepStatus, Verdict


class View(BaseModel):
    """A response."""

    model_config = ConfigDict(frozen=True)


class StepView(View):
    """One stage of an audit. `progress` is a share, `seconds_left` an estimate until it has ended."""

    id: str
    kind: StepKind
    title: str
    status: StepStatus
    progress: float
    progress_note: str | None
    seconds_left: float | None
    reused: bool
    deaths: int
    cause: Cause | None
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None


class AttemptView(View):
    """One worker's spell on the audit; several can be open at once, each at another step."""

    number: int
    worker: str
    step_id: str | None  # the step that it is at now
    step: str | None  # that step's title
    started_at: datetime
    ended_at: datetime | None
    cause: Cause | None
    error: str | None


class PhaseView(View):
    """A status that the audit was in. `cause` and `error` say why it came to it, where there is a reason."""

    status: AuditStatus
    entered_at: datetime
    left_at: datetime | None
    cause: Cause | None
    error: str | None


class DeadlinesView(View):
    """When the audit will be given up: `expires_at` is the end of its time to queue until a worker has
    taken it, then the end of its time to run, and None once it has ended.
    """

    expires_at: datetime | None
    run_seconds: int | None


class AuditSummary(View):
    """An audit in a list. `status` is the job's state, `verdict` the gate's word on the edits."""

    id: str
    status: AuditStatus
    verdict: Verdict | None
    model: str
    edit_count: int
    labels: dict[str, str]
    priority: int
    submitter: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class AuditView(AuditSummary):
    """An audit with its steps, attempts and phases.

    `seconds_left` estimates the work left, by the workers at it now or by one; `starts_in_seconds` the
    wait until a worker takes a queued audit. Either is None where it cannot be told.
    """

    model_revision: str | None
    edit_set_id: str
    edit_set_hash: str
    cause: Cause | None
    error: str | None
    retry_of: str | None
    from_scratch: bool
    progress: float
    seconds_left: float | None
    queue_position: int | None
    starts_in_seconds: float | None
    deadlines: DeadlinesView
    steps: list[StepView]
    attempts: list[AttemptView]
    phase_history: list[PhaseView]
    links: dict[str, str]  # self, events, results, report, cancel, retry


class AuditPage(View):
    """Audits, newest first; pass `next_cursor` as `cursor` for the next page."""

    items: list[AuditSummary]
    next_cursor: str | None


class TrainingSetView(View):
    """An uploaded file of records. A recipe names it by `source`.

    `objective` and `shape` are what its records were recognised as; `content_hash` is of the file itself.
    """

    id: str
    source: str
    submitter: str
    content_hash: str
    objective: Objective
    shape: str
    record_count: int
    byte_count: int
    created_at: datetime


class TrainingSetPage(View):
    """Training sets, newest first; pass `next_cursor` as `cursor` for the next page."""

    items: list[TrainingSetView]
    next_cursor: str | None


class EventView(View):
    """Something that happened; `sequence` has no gaps."""

    sequence: int
    at: datetime
    kind: str
    data: dict[str, Any]


class ResultRow(View):
    """How one probe of one fact scored, per arm and mode. `right` is None where not scorable."""

    editor: str | None
    paraphrases: int | None
    recipe: str | None
    freeze: str | None
    stressor: str | None
    frozen_blocks: str | None  # their indices, e.g. "1 2 3": tells apart tunings of the base for two editors
    seed: int | None
    arm: Arm
    tuning_step: int
    fact_id: str
    fact_kind: FactKind
    probe_kind: ProbeKind
    probe_index: int
    prompt: str
    answer: str
    mode: Mode
    right: bool | None
    log_prob_answer: float
    log_prob_alternative: float | None
    predicted_token: str


class ResultPage(View):
    """Result rows in a fixed order; pass `next_cursor` as `cursor` for the next page."""

    items: list[ResultRow]
    next_cursor: str | None


class EditorView(View):
    """An editor and the JSON Schema of its hyperparameters."""

    name: str
    title: str
    summary: str
    paper: str
    hyperparameters: dict[str, Any]
    model_defaults: dict[str, dict[str, Any]]  # by model reference; they replace the schema's defaults


class Problem(BaseModel):
    """RFC 9457 problem details; `errors` names each field at fault."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[ProblemField] = []


class ProblemField(BaseModel):
    """One field at fault, as a JSON Pointer into the request, and why."""

    pointer: str
    detail: str


class Health(View):
    """Whether the process is alive, or each thing it needs is there."""

    status: str
    checks: dict[str, str] = {}
