"""How far the recipes' data speaks of the facts that the audit measures."""

from __future__ import annotations

from collections.abc import Iterable

from services.worker.probing.control_facts import control_candidates
from services.worker.steps.context import AuditContext
from shared.recipes import TrainingRecord
from shared.reports import RecipeOverlap
from shared.reports.overlap import RecordOverlap
from shared.states import StepKind
from shared.tables import Step
from shared.training_data import overlap


def data_overlap(context: AuditContext) -> list[RecipeOverlap]:
    """The overlap of every recipe's records, and of what it replays, with edits and control candidates."""
    request = context.request
    edits = request.edits
    candidates = control_candidates(edits, request.controls.facts, request.controls.unedited)

    def counted(records: Iterable[TrainingRecord]) -> RecordOverlap:
        return overlap(records, edits, candidates)

    return [
        RecipeOverlap(
            recipe=recipe.name,
            data=counted(context.records(recipe)),
            replay=counted(context.replay(recipe)) if recipe.data.replay is not None else None,
            left_out=context.corpus(recipe).left_out,
        )
        for recipe in request.recipes
    ]


def recorded_overlap(steps: Iterable[Step]) -> list[RecipeOverlap]:
    """What the plan found."""
    plan = next(step for step in steps if step.kind is StepKind.PLAN)
    return [RecipeOverlap.model_validate(found) for found in (plan.outcome or {}).get("overlap", [])]


def overlap_warnings(found: Iterable[RecipeOverlap]) -> list[str]:
    """Say which recipes train on what names the facts: the audit then measures that too."""
    return [
        f"recipe {recipe.recipe}: {told(part)}, so that retention is not of the editing alone; "
        "'without_subjects' leaves such records out"
        for recipe in found
        for part in (recipe.data, recipe.replay)
        if part is not None and part.anything
    ]


def told(found: RecordOverlap) -> str:
    """The overlap in words."""
    edits, controls = found.edits, found.controls
    return (
        f"of {found.records} records {edits.records_with_subject} name the subject of an edit "
        f"({edits.records_with_target_new} its new target too, {edits.records_with_target_true} its old one) "
        f"and {controls.records_with_subject} that of a control fact ({controls.records_with_answer} its "
        "answer too)"
    )
