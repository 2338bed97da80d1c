"""What the analysis is given: every trial's scored probes, and what the report has to say besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from shared.measurement import Arm, FactKind, ProbeKind, ProbeScore
from shared.states import StepStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shared.reports import Provenance, StepProblem
    from shared.requests import Configuration, GateRule

TUNED_ARMS = frozenset({Arm.BASE_TUNED, Arm.EDITED_TUNED})

ProbeKey = tuple[str, int]  # fact id, index among the fact's probes of one kind
Scores = dict[ProbeKey, ProbeScore]


@dataclass(frozen=True, slots=True)
class ScoredProbe:
    """One probe's score at one arm; `tuning_step` is 0 before tuning."""

    fact_id: str
    fact_kind: FactKind
    probe_kind: ProbeKind
    probe_index: int
    arm: Arm
    tuning_step: int
    relation: str | None
    score: ProbeScore


@dataclass(frozen=True)
class Trial:
    """One planned seed of a configuration, whether it succeeded or not.

    arms: the scored probes of each arm that ran. `base→tuned` is the base model tuned with the same
    recipe, freezing and seed. Trials may share the very lists of the arms they have in common.
    """

    configuration: Configuration
    seed: int
    step_id: str
    status: StepStatus
    error: str | None = None
    reused: bool = False
    held_out_loss_before: float | None = None
    held_out_loss_after: float | None = None
    arms: Mapping[Arm, Sequence[ScoredProbe]] = field(default_factory=dict)

    def scores(
        self, arm: Arm, fact_kind: FactKind, probe_kind: ProbeKind, tuning_step: int | None = None
    ) -> Scores:
        """Scores by probe: before tuning in `base` and `edited`, by default after its end in the others.

        Empty where the arm did not run.
        """
        if tuning_step is None:
            tuning_step = max(self.tuning_steps(arm), default=0) if arm in TUNED_ARMS else 0
        return self._index.get((arm, tuning_step), {}).get((fact_kind, probe_kind), {})

    def tuning_steps(self, arm: Arm) -> list[int]:
        """Optimiser steps after which the arm was probed, in order."""
        return sorted(step for indexed_arm, step in self._index if indexed_arm is arm)

    def ran(self, arm: Arm) -> bool:
        """Whether anything was scored at the arm."""
        return bool(self.arms.get(arm))

    @cached_property
    def relations(self) -> dict[str, str | None]:
        """Relation of every fact that was probed."""
        return {row.fact_id: row.relation for rows in self.arms.values() for row in rows}

    @cached_property
    def _index(self) -> dict[tuple[Arm, int], dict[tuple[FactKind, ProbeKind], Scores]]:
        index: dict[tuple[Arm, int], dict[tuple[FactKind, ProbeKind], Scores]] = {}
        for arm, rows in self.arms.items():
            for row in rows:
                at_step = index.setdefault((arm, row.tuning_step), {})
                of_kind = at_step.setdefault((row.fact_kind, row.probe_kind), {})
                of_kind[row.fact_id, row.probe_index] = row.score
        return index


@dataclass(frozen=True)
class AuditFindings:
    """Everything that an audit measured, in the order of its request.

    configurations: all that were asked for; trials: one per configuration and seed.
    """

    audit_id: str
    created_at: datetime
    configurations: Sequence[Configuration]
    gate: Sequence[GateRule]
    trials: Sequence[Trial]
    edits: int
    controls: int
    control_candidates: int
    problems: Sequence[StepProblem]
    warnings: Sequence[str]
    provenance: Provenance

    def trials_of(self, configuration: Configuration) -> list[Trial]:
        """The planned trials of one configuration, in the order of their seeds."""
        return [trial for trial in self.trials if trial.configuration == configuration]

    @property
    def all_trials_succeeded(self) -> bool:
        """Whether nothing that was planned is missing."""
        return bool(self.trials) and all(trial.status is StepStatus.SUCCEEDED for trial in self.trials)
