"""What the analysis is given: every trial's scored probes, and what the report has to say besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from shared.measurement import TUNED, After, Arm, FactKind, ProbeKind, ProbeScore
from shared.reports.parts import PER_TOKEN
from shared.states import StepStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shared.reports import (
        Editing,
        FluencySample,
        KeyStatisticsUsed,
        Mentions,
        Provenance,
        RecipeOverlap,
        StepProblem,
        Tracing,
        WeightDrift,
    )
    from shared.requests import Configuration, GateRule, StressConfiguration
    from shared.stressors import Stressor

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
class EditFeatures:
    """An edit as the request states it, and what was counted of it.

    target_tokens: of target_new after its space; mentions: by recipe, of its words in the recipe's records.
    """

    index: int
    prompt: str
    subject: str
    target_new: str
    target_true: str
    paraphrases: int
    target_tokens: int | None = None
    mentions: Mapping[str, Mentions] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One planned seed of a configuration, whether it succeeded or not.

    arms: the scored probes of each arm that ran. `base→tuned` is the base model tuned with the same
    recipe, freezing and seed. Trials may share the very lists of the arms they have in common.
    steps, base_steps: optimiser steps that the edited and the base model were tuned for, which is fewer than
    the recipe's where it stopped early; None where not recorded. loss_unit: of the held-out losses.
    after: the arms that what was done to the models led to.
    """

    configuration: Configuration | StressConfiguration
    seed: int
    step_id: str
    status: StepStatus
    error: str | None = None
    reused: bool = False
    held_out_loss_before: float | None = None
    held_out_loss_after: float | None = None
    loss_unit: str = PER_TOKEN
    steps: int | None = None
    base_steps: int | None = None
    arms: Mapping[Arm, Sequence[ScoredProbe]] = field(default_factory=dict)
    after: After = TUNED
    fluency: Mapping[Arm, FluencySample] = field(default_factory=dict)
    drift: Sequence[WeightDrift] = ()  # of the matrices that the editor wrote to

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
class StressFindings:
    """What an audit found of one edited model under one stressor.

    trials: without facts that the stressor was meant to change; superseded: with those first edits alone that
    further ones overwrite. footprints: how far the edited model's weights were moved, by what its steps say.
    """

    configuration: StressConfiguration
    stressor: Stressor
    trials: Sequence[Trial]
    superseded: Sequence[Trial] = ()
    footprints: Sequence[Mapping[str, float]] = ()
    further_edits: Sequence[Mapping[str, int]] = ()


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
    overlap: Sequence[RecipeOverlap] = ()
    editing: Sequence[Editing] = ()
    tracing: Tracing | None = None
    key_statistics: Sequence[KeyStatisticsUsed] = ()
    features: Mapping[str, EditFeatures] = field(default_factory=dict)  # by the edits' fact ids
    stress: Sequence[StressFindings] = ()

    def trials_of(self, configuration: Configuration) -> list[Trial]:
        """The planned trials of one configuration, in the order of their seeds."""
        return [trial for trial in self.trials if trial.configuration == configuration]

    @property
    def all_trials_succeeded(self) -> bool:
        """Whether nothing that was planned is missing."""
        trials = self.every_trial
        return bool(trials) and all(trial.status is StepStatus.SUCCEEDED for trial in trials)

    @property
    def every_trial(self) -> list[Trial]:
        """Those of fine-tunings, then those of stressors."""
        return [*self.trials, *(trial for found in self.stress for trial in found.trials)]
