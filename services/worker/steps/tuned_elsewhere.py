"""Models that were fine-tuned elsewhere: checked by the plan, probed as `base→tuned` and `edited→tuned`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from services.worker.editing.supplied_weights import (
    SuppliedModelUnusable,
    different_settings,
    supplied_parameters,
)
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.weight_delta import restored
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.edit import stored_modification
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed
from services.worker.steps.measured import fluency_record, measured_probes, score_fully
from services.worker.steps.progress import progress_of_part
from services.worker.steps.supplied import supplied_source
from shared.editors import SuppliedHyperparameters
from shared.measurement import Arm
from shared.model_files import ModelNotUsable
from shared.recipes import Freeze
from shared.states import Cause, StepKind
from shared.tables import Step

if TYPE_CHECKING:
    from services.worker.steps.plan import Layout

LOADED = 0.3  # share of a step's progress, roughly

Revisions = dict[str, str]  # by reference


def settle_tuned(context: AuditContext, step: Step) -> Revisions:
    """The revision of every model that was tuned elsewhere, each compared with the base tensor by tensor.

    Raises:
        StepFailed: one is not there, or not the audited model with other weights.
    """
    found: Revisions = {}
    for model in context.request.tuned:
        for reference in (model.edited_tuned, model.base_tuned):
            if reference is None or reference in found:
                continue
            progress = progress_of_part(context, step, f"comparing {model.name}: {{done}} of {{whole}}")
            try:
                path, found[reference] = checkpoint_source(context, reference, None)
                check_tuned(context.language_model, path, progress)
            except (ModelNotUsable, SuppliedModelUnusable) as error:
                raise StepFailed(Cause.USER, f"tuned {model.name}: {reference}: {error.reason}") from error
    return found


def checkpoint_source(context: AuditContext, reference: str, revision: str | None) -> tuple[Path, str]:
    """The directory of a model that was tuned elsewhere, and its revision, which is the one given if any."""
    named = SuppliedHyperparameters(checkpoint=reference, revision=revision)
    return supplied_source(named, context.settings)


def check_tuned(language_model: LanguageModel, checkpoint: Path, progress: Progress) -> None:
    """Raise SuppliedModelUnusable unless it has the model's parameters, some of them with other values."""
    different_settings(language_model, checkpoint)
    work = WorkDone(progress, whole=sum(parameter.numel() for parameter in language_model.model.parameters()))
    differs = False
    for parameter in supplied_parameters(language_model, checkpoint):
        differs = differs or parameter.differs
        work.advance(parameter.base.numel())
    if not differs:
        raise SuppliedModelUnusable("it has the weights of the base model; nothing was tuned")


def add_probes(
    layout: Layout, base: Step, edits: Mapping[str, Step], revisions: Revisions, context: AuditContext
) -> None:
    """A step per model that was tuned elsewhere; edits: the edit steps, by their editor's key."""
    for model in context.request.tuned:
        edit = edits[context.request.editor_of(model).key]
        for of, reference in ((None, model.base_tuned), (edit, model.edited_tuned)):
            if reference is not None:
                on = f"{edit.inputs['editor']}, k={edit.inputs['paraphrases']}" if of else "base"
                layout.add(
                    StepKind.PROBE,
                    f"probe: {on}, tuned elsewhere ({model.name})"[:255],
                    [base, of] if of else [base],
                    editor=edit.inputs["editor"] if of else None,
                    paraphrases=edit.inputs["paraphrases"] if of else None,
                    edit_step=of.id if of else None,
                    recipe=model.name,
                    freeze=Freeze.NONE,
                    checkpoint=reference,
                    revision=revisions[reference],
                    seed=context.request.seeds[0],
                )


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Put the checkpoint's weights in the base's place, and probe them.

    What an editor keeps beside the weights is there as well.
    """
    language_model, memory = context.language_model, GpuMemory()
    path, _ = checkpoint_source(context, step.inputs["checkpoint"], step.inputs["revision"])
    settings = different_settings(language_model, path)
    edited = step.inputs["edit_step"] is not None
    probes = measured_probes(context)
    loading = progress_of_part(context, step, "reading weights: {done} of {whole}", end=LOADED)
    start = (
        stored_modification(context, step.inputs["edit_step"]).applied(language_model)
        if edited
        else nullcontext(language_model)
    )
    with start as model, weights_replaced(model, path, loading):
        scores = score_fully(
            model,
            probes,
            context.request.probing,
            progress=progress_of_part(context, step, "probe {done} of {whole}", start=LOADED),
            memory=memory,
        )
        fluency = fluency_record(context.request, model, memory)
    warnings = list(memory.warnings)
    if settings:
        warnings.append(f"its configuration differs in {', '.join(settings)}; the base model's is used")
    return StepOutcome(
        record={
            "fluency": fluency,
            "warnings": [f"{step.title}: {warning}" for warning in warnings],
            "environment": environment(language_model),
        },
        arms=[ArmScores(Arm.EDITED_TUNED if edited else Arm.BASE_TUNED, 0, probes, scores)],
    )


@contextmanager
def weights_replaced(language_model: LanguageModel, checkpoint: Path, progress: Progress) -> Iterator[None]:
    """Every parameter as the checkpoint has it, read one at a time, while the context lasts."""
    model = language_model.model
    work = WorkDone(progress, whole=sum(parameter.numel() for parameter in model.parameters()))
    with restored(model):
        for parameter in supplied_parameters(language_model, checkpoint):
            with torch.no_grad():
                model.get_parameter(parameter.name).copy_(parameter.values)
            work.advance(parameter.values.numel())
        yield
