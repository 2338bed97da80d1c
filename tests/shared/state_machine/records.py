"""Audits, steps and attempts as the model keeps them, and the moves that their states allow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

ENDED = frozenset({"succeeded", "failed", "cancelled", "expired"})
STEP_ENDED = frozenset({"succeeded", "failed", "skipped", "cancelled"})
REUSABLE = frozenset({"base", "prepare", "edit", "tune", "stress", "probe"})
STORED = frozenset({"prepare", "edit"})  # steps that leave an artifact to others
AUDIT_MOVES: dict[str, set[str]] = {
    "queued": {"running", "cancelled", "expired"},
    "running": {"queued", "cancelling", "succeeded", "failed", "expired"},
    "cancelling": {"cancelled"},
    **{ended: set() for ended in ENDED},
}
STEP_MOVES: dict[str, set[str]] = {
    "pending": {"running", "skipped", "cancelled"},
    "running": {"pending", "succeeded", "failed", "cancelled"},
    "succeeded": {"pending"},
    **{ended: set() for ended in STEP_ENDED - {"succeeded"}},
}


@dataclass(eq=False)
class ModelStep:
    """One step; `reads` is the one whose artifact it needs."""

    id: str
    position: int
    kind: str
    key: str
    needs: list[ModelStep]
    reads: ModelStep | None = None
    status: str = "pending"
    ready_at: datetime | None = None
    finished_at: datetime | None = None
    deaths: int = 0
    delays: int = 0
    damages: int = 0
    progress: float = 0.0
    checkpoint: float | None = None
    artifact: str | None = None
    source: str | None = None

    @property
    def current_key(self) -> str:
        """The key under the code that the workers run."""
        return f"re-keyed {self.key}" if self.key.startswith("old") else self.key

    def move(self, wanted: str) -> None:
        assert wanted in STEP_MOVES[self.status], f"{self.status} → {wanted}"
        self.status = wanted
        self.ready_at = None


@dataclass(eq=False)
class ModelAttempt:
    """One worker's spell on one audit."""

    id: str
    number: int
    audit: ModelAudit
    started_at: datetime
    lease_expires_at: datetime
    step: ModelStep | None = None
    is_open: bool = True
    leaving: bool = False

    @property
    def at_hand(self) -> ModelStep:
        """The step that it holds."""
        assert self.step is not None
        return self.step


@dataclass(eq=False)
class ModelAudit:
    """One audit."""

    id: str
    submitter: str
    priority: int
    created_at: datetime
    expires_at: datetime | None
    run_seconds: int | None
    from_scratch: bool
    steps: list[ModelStep]
    status: str = "queued"
    attempts: list[ModelAttempt] = field(default_factory=list)
    served_at: datetime | None = None
    started: bool = False
    cancel_requested_at: datetime | None = None
    events: Counter[str] = field(default_factory=Counter)

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def at_work(self) -> list[ModelAttempt]:
        return [attempt for attempt in self.attempts if attempt.is_open]

    def move(self, wanted: str) -> None:
        assert wanted in AUDIT_MOVES[self.status], f"{self.status} → {wanted}"
        self.status = wanted
        self.events[f"audit.{wanted}"] += 1
