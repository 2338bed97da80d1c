"""The tables. They know nothing of HTTP; requests are validated before they get here."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlmodel import Field, SQLModel

from shared.database import UtcDateTime
from shared.measurement import Arm, FactKind, ProbeKind
from shared.recipes import Objective
from shared.states import AuditStatus, Cause, StepKind, StepStatus, Verdict

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata: MetaData = SQLModel.metadata
metadata.naming_convention = NAMING_CONVENTION


def new_id() -> str:
    """A fresh identifier."""
    return uuid.uuid4().hex


def one_of(words: type[StrEnum]) -> Enum:
    """A string column that the database itself holds to the enum's values."""
    return Enum(
        words,
        name=words.__name__.lower(),
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda enum: [word.value for word in enum],
    )


def time_column(*, nullable: bool = True, index: bool = False) -> Column[datetime]:
    """A column for a point in time."""
    return Column(UtcDateTime(), nullable=nullable, index=index)


def flag_column() -> Column[bool]:
    """A column for yes or no; no unless said otherwise."""
    return Column(Boolean(), nullable=False, server_default=false())


def count_column() -> Column[int]:
    """A column that counts from 0."""
    return Column(Integer(), nullable=False, server_default="0")


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the few rows that `where` selects: it stays small however many have ended."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class EditSet(SQLModel, table=True):
    """An immutable, validated collection of edits, stored once per content."""

    __tablename__ = "edit_set"
    id: str = Field(default_factory=new_id, primary_key=True, max_length=32)
    content_hash: str = Field(max_length=64, unique=True)
    edit_count: int
    edits: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_column=time_column(nullable=False))


class TrainingSet(SQLModel, table=True):
    """An immutable, validated file of records to train on; its content is the artifact of its hash.

    `suffix` says how the file is read; `objective` and `shape` are what its records were recognised as.
    """

    __tablename__ = "training_set"
    __table_args__ = (UniqueConstraint("submitter", "content_hash", "suffix"),)
    id: str = Field(default_factory=new_id, primary_key=True, max_length=32)
    submitter: str = Field(max_length=64)
    content_hash: str = Field(max_length=64)
    suffix: str = Field(max_length=16)
    objective: Objective = Field(sa_column=Column(one_of(Objective), nullable=False))
    shape: str = Field(max_length=64)
    record_count: int
    byte_count: int
    created_at: datetime = Field(sa_column=time_column(nullable=False))


class Submitter(SQLModel, table=True):
    """Who submits audits, and when a worker last took one of theirs: the longest unserved is next."""

    __tablename__ = "submitter"
    name: str = Field(primary_key=True, max_length=64)
    served_at: datetime | None = Field(default=None, sa_column=time_column())


class Audit(SQLModel, table=True):
    """One accepted request and where it stands.

    `expires_at` is when it is given up: while it waits for its first worker, the end of the time to
    queue; from then on, the end of the time to run. `from_scratch`: nothing computed before is reused.
    """

    __tablename__ = "audit"
    __table_args__ = (
        UniqueConstraint("submitter", "idempotency_key"),
        Index("ix_audit_status_priority_created_at", "status", "priority", "created_at"),
        Index("ix_audit_created_at_id", "created_at", "id"),
        partial_index("ix_audit_open_expires_at", "expires_at", where="finished_at IS NULL"),
    )
    id: str = Field(default_factory=new_id, primary_key=True, max_length=32)
    submitter: str = Field(max_length=64)
    idempotency_key: str | None = Field(default=None, max_length=255)
    request_hash: str = Field(max_length=64)
    request: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))  # without the edits
    edit_set_id: str = Field(foreign_key="edit_set.id", max_length=32)
    model_reference: str = Field(max_length=500)
    model_revision: str | None = Field(default=None, max_length=128)  # known after `plan` at the latest
    labels: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    priority: int = 0
    status: AuditStatus = Field(
        default=AuditStatus.QUEUED, sa_column=Column(one_of(AuditStatus), nullable=False)
    )
    verdict: Verdict | None = Field(default=None, sa_column=Column(one_of(Verdict), nullable=True))
    cause: Cause | None = Field(default=None, sa_column=Column(one_of(Cause), nullable=True))
    error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    event_count: int = 0
    run_seconds: int | None = None
    from_scratch: bool = Field(default=False, sa_column=flag_column())
    retry_of: str | None = Field(default=None, max_length=32)  # an earlier audit's id
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    expires_at: datetime | None = Field(default=None, sa_column=time_column())
    served_at: datetime | None = Field(default=None, sa_column=time_column())
    cancel_requested_at: datetime | None = Field(default=None, sa_column=time_column())
    started_at: datetime | None = Field(default=None, sa_column=time_column())
    finished_at: datetime | None = Field(default=None, sa_column=time_column())


class Attempt(SQLModel, table=True):
    """One worker's spell on one audit: it holds a lease, and its token fences every write."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("audit_id", "number"),
        partial_index("ix_attempt_open_lease_expires_at", "lease_expires_at", where="ended_at IS NULL"),
        partial_index("ix_attempt_open_audit_id", "audit_id", where="ended_at IS NULL"),
    )
    id: str = Field(default_factory=new_id, primary_key=True, max_length=32)
    audit_id: str = Field(foreign_key="audit.id", max_length=32)
    number: int
    worker: str = Field(max_length=255)
    lease_token: str = Field(max_length=32, unique=True)
    lease_expires_at: datetime = Field(sa_column=time_column(nullable=False))
    started_at: datetime = Field(sa_column=time_column(nullable=False))
    ended_at: datetime | None = Field(default=None, sa_column=time_column())
    cause: Cause | None = Field(default=None, sa_column=Column(one_of(Cause), nullable=True))
    error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))


class Step(SQLModel, table=True):
    """One stage of an audit, addressed by its content.

    `source_step_id` is the step whose artifact and probe scores this one stands for: itself, or an
    identical step that succeeded before. `ready_at` is when a worker may take it; it is None while the
    step waits for others, and from the moment it is taken. `lease_token` is the attempt that took it
    last. `code_version` is the code that `key` was made for.
    """

    __tablename__ = "step"
    __table_args__ = (
        UniqueConstraint("audit_id", "position"),
        Index("ix_step_key_status", "key", "status"),
        partial_index("ix_step_ready", "audit_id", "ready_at", where="ready_at IS NOT NULL"),
        partial_index("ix_step_checkpoint_key", "key", where="checkpoint IS NOT NULL"),
        # The same step is never computed by two workers at once, whichever audits it belongs to.
        partial_index("uq_step_running_key", "key", where="status = 'running'", unique=True),
        CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_share"),
    )
    id: str = Field(default_factory=new_id, primary_key=True, max_length=32)
    audit_id: str = Field(foreign_key="audit.id", max_length=32)
    position: int
    kind: StepKind = Field(sa_column=Column(one_of(StepKind), nullable=False))
    title: str = Field(max_length=255)
    key: str = Field(max_length=64)
    code_version: str | None = Field(default=None, max_length=64)
    needs: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))  # step ids
    inputs: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    status: StepStatus = Field(
        default=StepStatus.PENDING, sa_column=Column(one_of(StepStatus), nullable=False)
    )
    ready_at: datetime | None = Field(default=None, sa_column=time_column())
    lease_token: str | None = Field(default=None, max_length=32)
    deaths: int = 0
    delays: int = Field(default=0, sa_column=count_column())  # times that its surroundings were away
    damages: int = Field(default=0, sa_column=count_column())  # times that its artifact was found damaged
    progress: float = 0.0
    progress_note: str | None = Field(default=None, max_length=255)
    progressed_at: datetime | None = Field(default=None, sa_column=time_column())
    checkpoint: str | None = Field(default=None, max_length=500)
    checkpoint_sha256: str | None = Field(default=None, max_length=64)
    checkpoint_progress: float | None = None
    source_step_id: str | None = Field(
        default=None,
        sa_column=Column(String(32), ForeignKey("step.id"), nullable=True),
    )
    artifact: str | None = Field(default=None, max_length=500)
    artifact_sha256: str | None = Field(default=None, max_length=64)
    outcome: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    cause: Cause | None = Field(default=None, sa_column=Column(one_of(Cause), nullable=True))
    error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    started_at: datetime | None = Field(default=None, sa_column=time_column())
    finished_at: datetime | None = Field(default=None, sa_column=time_column())


class ProbeRow(SQLModel, table=True):
    """How one probe scored at one arm; `tuning_step` is 0 at the arms before fine-tuning."""

    __tablename__ = "probe_row"
    __table_args__ = (Index("ix_probe_row_step_id_tuning_step", "step_id", "tuning_step"),)
    id: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    )
    step_id: str = Field(foreign_key="step.id", max_length=32)
    arm: Arm = Field(sa_column=Column(one_of(Arm), nullable=False))
    tuning_step: int
    fact_id: str = Field(max_length=64)
    fact_kind: FactKind = Field(sa_column=Column(one_of(FactKind), nullable=False))
    probe_kind: ProbeKind = Field(sa_column=Column(one_of(ProbeKind), nullable=False))
    probe_index: int
    prompt: str = Field(sa_column=Column(Text, nullable=False))
    answer: str = Field(sa_column=Column(Text, nullable=False))
    first_token: bool
    exact: bool
    preference: bool | None = None
    log_prob_answer: float
    log_prob_alternative: float | None = None
    alternative_exact: bool | None = None
    predicted_token: str = Field(max_length=255)
    contains: bool | None = None
    answer_tokens: int | None = None
    answer_hits: int | None = None
    alternative_tokens: int | None = None
    predictions: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    predicted_answer: str | None = Field(default=None, max_length=255)


class StoredReport(SQLModel, table=True):
    """The finished report of an audit; the page is an artifact beside it."""

    __tablename__ = "report"
    audit_id: str = Field(foreign_key="audit.id", primary_key=True, max_length=32)
    report: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    page: str = Field(max_length=500)
    page_sha256: str = Field(max_length=64)
    created_at: datetime = Field(sa_column=time_column(nullable=False))


class Event(SQLModel, table=True):
    """Something that happened to an audit; `sequence` counts from 1 without gaps."""

    __tablename__ = "event"
    audit_id: str = Field(foreign_key="audit.id", primary_key=True, max_length=32)
    sequence: int = Field(primary_key=True)
    at: datetime = Field(sa_column=time_column(nullable=False))
    kind: str = Field(max_length=64)
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class OutboxMessage(SQLModel, table=True):
    """A message that must leave, written in the transaction that made it necessary."""

    __tablename__ = "outbox_message"
    __table_args__ = (UniqueConstraint("audit_id", "kind"),)
    id: str = Field(default_factory=new_id, primary_key=True, max_length=32)
    kind: str = Field(max_length=32)
    audit_id: str = Field(foreign_key="audit.id", max_length=32)
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    sent_at: datetime | None = Field(default=None, sa_column=time_column(index=True))
    sent_count: int = Field(default=0, sa_column=count_column())
