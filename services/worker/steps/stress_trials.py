"""Puts the trials of an audit's stressors together from its steps and their probe scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.worker.analysis.inputs import ScoredProbe, StressFindings, Trial
from services.worker.steps.context import AuditContext
from services.worker.steps.measured import recorded_fluency
from shared.gate import StressConfiguration
from shared.measurement import STRESSED, Arm, FactKind
from shared.states import StepKind
from shared.stressors import key_of
from shared.tables import Step

Scored = Mapping[str, Sequence[ScoredProbe]]  # by step


def stress_findings(context: AuditContext, steps: Sequence[Step], scored: Scored) -> Iterable[StressFindings]:
    """One finding per edited model and stressor, in the request's order."""
    by_key = {key_of(stressor): stressor for stressor in context.request.stressors}
    edited = [step for step in steps if step.kind is StepKind.STRESS and step.inputs["edit_step"] is not None]
    for configuration in context.request.stress_configurations():
        of_it = [step for step in edited if configuration_of(step) == configuration]
        outcomes = [step.outcome or {} for step in of_it]
        yield StressFindings(
            configuration=configuration,
            stressor=by_key[configuration.stressor],
            trials=[trial_of(context, step, steps, scored, of_superseded=False) for step in of_it],
            superseded=[
                trial_of(context, step, steps, scored, of_superseded=True)
                for step, outcome in zip(of_it, outcomes, strict=True)
                if outcome.get("superseded")
            ],
            footprints=[outcome["footprint"] for outcome in outcomes if "footprint" in outcome],
            further_edits=[outcome["further_edits"] for outcome in outcomes if "further_edits" in outcome],
        )


def configuration_of(step: Step) -> StressConfiguration:
    """The configuration that a stressed edited model belongs to."""
    fields = StressConfiguration.model_fields
    return StressConfiguration.model_validate({field: step.inputs[field] for field in fields})


def trial_of(
    context: AuditContext, step: Step, steps: Sequence[Step], scored: Scored, *, of_superseded: bool
) -> Trial:
    """The four arms of one stressed edited model: over the overwritten first edits alone, or without them.

    Control facts that further edits may have changed are in neither.
    """
    base = next(other for other in steps if other.kind is StepKind.BASE)
    edit = next(other for other in steps if other.id == step.inputs["edit_step"])
    stressed_base = next((other for other in steps if is_base_of(other, step)), None)
    outcome = step.outcome or {}
    left_out, superseded = (set(outcome.get(part, ())) for part in ("left_out", "superseded"))

    def wanted(rows: Iterable[ScoredProbe]) -> list[ScoredProbe]:
        if of_superseded:
            return [row for row in rows if row.fact_kind is FactKind.EDIT and row.fact_id in superseded]
        return [row for row in rows if row.fact_id not in left_out | superseded]

    return Trial(
        configuration=configuration_of(step),
        seed=step.inputs["seed"] if step.inputs["seed"] is not None else context.request.seeds[0],
        step_id=step.id,
        status=step.status,
        error=step.error or edit.error,
        reused=step.source_step_id not in {None, step.id},
        arms={
            Arm.BASE: wanted(scored[base.id]),
            Arm.BASE_STRESSED: wanted(scored[stressed_base.id]) if stressed_base else [],
            Arm.EDITED: wanted(scored[edit.id]),
            Arm.EDITED_STRESSED: wanted(scored[step.id]),
        },
        fluency=recorded_fluency(
            {
                Arm.BASE: base,
                Arm.BASE_STRESSED: stressed_base,
                Arm.EDITED: edit,
                Arm.EDITED_STRESSED: step,
            }
        ),
        after=STRESSED,
    )


def is_base_of(other: Step, step: Step) -> bool:
    """Whether `other` is the base under the stressor of `step`, which for further edits is one per editor."""
    if other.kind is not StepKind.STRESS or other.inputs["edit_step"] is not None:
        return False
    same: tuple[Any, ...] = ("stressor", "seed")
    return other.inputs["editor"] in (None, step.inputs["editor"]) and all(
        other.inputs[part] == step.inputs[part] for part in same
    )
