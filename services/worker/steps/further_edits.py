"""More edits by the same editor on top of the first ones: what the stressor `further_edits` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from services.worker.editing.catalogue import EDITORS
from services.worker.editing.demonstrations import Demonstrations
from services.worker.editing.editor import EditingRun
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.modification import Modification
from services.worker.steps.context import AuditContext
from services.worker.steps.edit import EDITING_DONE, STATISTICS_DONE, gather_materials
from services.worker.steps.progress import progress_of_part
from shared.editors import CATALOGUE, Hyperparameters, SequentialHyperparameters
from shared.edits import Edit, normal
from shared.further_edits import further_edits
from shared.stressors import FurtherEdits
from shared.tables import Step


@dataclass(frozen=True)
class FurtherEdited:
    """A model with the further edits on top, which they are, and what the editor warned of."""

    language_model: LanguageModel
    edits: list[Edit]
    warnings: tuple[str, ...]


def edits_to_add(context: AuditContext, stressor: FurtherEdits, seed: int | None) -> list[Edit]:
    """The further edits of one step, in order; seed: None where nothing is drawn."""
    request = context.request
    return further_edits(stressor, request.edits, request.controls.unedited, seed or 0)


def for_other_edits(hyperparameters: Hyperparameters) -> Hyperparameters:
    """Without batches that were written down for the first edits alone; `batch_size` stays."""
    if isinstance(hyperparameters, SequentialHyperparameters):
        return hyperparameters.model_copy(update={"batches": None})
    return hyperparameters


@contextmanager
def further_edited(
    context: AuditContext,
    step: Step,
    modification: Modification | None,
    stressor: FurtherEdits,
    memory: GpuMemory,
) -> Iterator[FurtherEdited]:
    """The base, or with a modification the edited model, with more edits on top while the context lasts.

    The editor works on the model as edited so far; key statistics, contexts and hypernetworks are those of
    the base, as they are where edits are made one after another. The base is given back bit for bit.
    """
    base = context.language_model
    chosen = CATALOGUE[step.inputs["name"]].hyperparameters.model_validate(step.inputs["hyperparameters"])
    hyperparameters = for_other_edits(chosen)
    edits = edits_to_add(context, stressor, step.inputs["seed"])
    materials = gather_materials(context, step, hyperparameters, memory)
    told = progress_of_part(context, step, "further editing", start=STATISTICS_DONE, end=EDITING_DONE)
    with nullcontext(base) if modification is None else modification.applied(base) as edited:
        outcome = EDITORS[step.inputs["name"]].edit(
            edited, edits, hyperparameters, materials, EditingRun(progress=told, memory=memory)
        )
        added = outcome.modification
        if isinstance(modification, Demonstrations) and isinstance(added, Demonstrations):
            added = told_together(modification, added)
        with added.applied(edited) as twice:
            yield FurtherEdited(twice, edits, outcome.warnings)


def told_together(first: Demonstrations, added: Demonstrations) -> Demonstrations:
    """All facts in one memory: a model has one preamble. A fact told anew is not told as it was before."""
    prompts = {normal(fact.prompt) for fact in added.facts}
    kept = tuple(fact for fact in first.facts if normal(fact.prompt) not in prompts)
    return replace(added, facts=(*kept, *added.facts))
