"""Lays out an audit's stressors: a step per (edit or base) × stressor, and × seed where that draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from services.worker.steps.context import AuditContext
from services.worker.steps.failures import StepFailed
from services.worker.steps.fitting import check_edits_fit, longest_context
from services.worker.steps.further_edits import edits_to_add, for_other_edits
from services.worker.steps.prepare import needs
from services.worker.stressing.adapters import check_adapter
from services.worker.stressing.footprint import StressFailed
from shared.adapters import adapter_directory, adapter_revision
from shared.editors import CATALOGUE
from shared.model_files import ModelNotUsable
from shared.requests import EditorChoice
from shared.states import Cause, StepKind
from shared.stressors import FurtherEdits, LoraMerge, Stressor, key_of
from shared.tables import Step

if TYPE_CHECKING:
    from services.worker.steps.plan import Layout

# Of an edit step's inputs, what making more edits in its manner takes.
OF_THE_EDITOR = ("name", "hyperparameters", "corpus")


def add_stresses(layout: Layout, base: Step, edits: Sequence[Step], context: AuditContext) -> None:
    """Every stressor upon the base and every edited model; raises StepFailed for one that cannot be."""
    for stressor in context.request.stressors:
        adapter = settled_adapter(stressor, context) if isinstance(stressor, LoraMerge) else None
        seeds = context.request.seeds if stressor.draws else context.request.seeds[:1]
        for seed in seeds:
            if isinstance(stressor, FurtherEdits):
                check_further_edits(stressor, edits, context, seed)
            for edit in edits:
                add_stress(layout, base, edit, None, stressor, seed, adapter, context)
                add_stress(layout, base, edit, edit, stressor, seed, adapter, context)


def add_stress(
    layout: Layout,
    base: Step,
    edit: Step,
    of: Step | None,
    stressor: Stressor,
    seed: int,
    adapter: str | None,
    context: AuditContext,
) -> Step:
    """One stressor upon the edited model or, where `of` is None, the base, unless it is laid out already.

    edit: whose editor makes any further edits.
    """
    further = isinstance(stressor, FurtherEdits)
    inputs: dict[str, Any] = {
        "editor": edit.inputs["editor"] if of or further else None,
        "paraphrases": of.inputs["paraphrases"] if of else None,
        "edit_step": of.id if of else None,
        "stressor": key_of(stressor),
        "settings": stressor.model_dump(mode="json", exclude={"label"}),
        "adapter": adapter,
        "seed": seed if stressor.draws else None,
    }
    same = f"{inputs['edit_step']}/{inputs['editor']}/{key_of(stressor)}/{seed}"
    if same not in layout.stressed:
        prepared = []
        if further:
            inputs |= {part: edit.inputs[part] for part in OF_THE_EDITOR}
            prepared = preparations(layout, edit, context)
        on = f"{of.inputs['editor']}, k={of.inputs['paraphrases']}" if of else "base"
        by = f" by {edit.inputs['editor']}" if further and not of else ""
        title = f"stress: {on}, {key_of(stressor)}{by}" + (f", seed {seed}" if stressor.draws else "")
        needed = [base, *([of] if of else []), *prepared]
        layout.stressed[same] = layout.add(StepKind.STRESS, title[:255], needed, **inputs)
    return layout.stressed[same]


def preparations(layout: Layout, edit: Step, context: AuditContext) -> list[Step]:
    """What the editor needs prepared for edits without paraphrases, as its own edit step may have it."""
    choice = choice_of(edit, context)
    chosen = CATALOGUE[choice.name].hyperparameters.model_validate(edit.inputs["hyperparameters"])
    return [layout.prepare(need) for need in needs(context, choice, 0, chosen)]


def choice_of(edit: Step, context: AuditContext) -> EditorChoice:
    """The editor of an edit step, as the request names it."""
    return next(choice for choice in context.request.editors if choice.key == edit.inputs["editor"])


def settled_adapter(stressor: LoraMerge, context: AuditContext) -> str:
    """The revision of the adapter to merge; raises StepFailed where there is none that can be merged into
    the model under audit."""
    try:
        directory = adapter_directory(stressor.adapter, context.settings)
        check_adapter(context.language_model.model, directory)
        return adapter_revision(directory)
    except (ModelNotUsable, StressFailed) as error:
        raise StepFailed(Cause.USER, f"stressor {key_of(stressor)}: {error.reason}") from error


def check_further_edits(
    stressor: FurtherEdits, edits: Sequence[Step], context: AuditContext, seed: int
) -> None:
    """Refuse further edits that the model has no room for, before anything is computed; raises StepFailed."""
    chosen = [
        for_other_edits(
            CATALOGUE[edit.inputs["name"]].hyperparameters.model_validate(edit.inputs["hyperparameters"])
        )
        for edit in edits
    ]
    try:
        check_edits_fit(
            context.language_model,
            dict(enumerate(edits_to_add(context, stressor, seed))),
            0,
            max(longest_context(hyperparameters) for hyperparameters in chosen),
        )
    except StepFailed as failed:
        raise StepFailed(failed.cause, f"stressor {key_of(stressor)}: {failed.reason}") from failed
