"""Lays out the steps of an audit: one base, E edits with what they need prepared, and a tuning per (edit or
base) × recipe × seed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from services.worker.steps.content_keys import code_version, content_key
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.fitting import check_edits_fit, longest_context
from services.worker.steps.measured import held_back_paraphrases, probing_identity
from services.worker.steps.mentions import mentions_in_data
from services.worker.steps.overlap import data_overlap, overlap_warnings
from services.worker.steps.preparation import Need
from services.worker.steps.prepare import needs
from services.worker.steps.progress import progress_of_part
from services.worker.steps.recipe_data import data_identity
from services.worker.steps.recipe_fitting import check_recipe, settle_freezing, without_freezing
from services.worker.steps.settling import (
    LayerTracing,
    choose_hyperparameters,
    settle_hyperparameters,
    traceable_facts,
)
from services.worker.steps.statistics_corpus import statistics_corpus
from services.worker.steps.stress_plan import add_stresses
from services.worker.steps.supplied import settle_supplied
from services.worker.steps.tuned_elsewhere import Revisions, add_probes, settle_tuned
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.objectives import check_packing
from shared.editors import (
    Hyperparameters,
    LayeredHyperparameters,
    SuppliedHyperparameters,
)
from shared.recipes import Freeze, Recipe
from shared.recipes.freezing import ranges
from shared.requests import EditorChoice
from shared.states import StepKind
from shared.tables import Audit, Step, new_id
from shared.training_data import content_hash


@dataclass(frozen=True)
class PlannedEdit:
    """An edit step and the blocks it will write to."""

    step: Step
    layers: tuple[int, ...]


@dataclass
class Layout:
    """The steps under construction; `subject` is what every one of them is about."""

    audit_id: str
    subject: dict[str, Any]
    data: dict[str, list[Any]]
    steps: list[Step] = field(default_factory=list)
    tuned: dict[str, Step] = field(default_factory=dict)
    stressed: dict[str, Step] = field(default_factory=dict)
    prepared: dict[str, Step] = field(default_factory=dict)

    def prepare(self, need: Need) -> Step:
        """The step that makes `need`, which all that need the same share."""
        inputs = {"preparation": need.preparation, **need.inputs}
        title = f"prepare: {need.preparation} of {need.of}"[:MAX_TITLE]
        model = {part: self.subject[part] for part in MODEL}
        same = content_key(inputs=inputs)
        if same not in self.prepared:
            self.prepared[same] = self.add(StepKind.PREPARE, title, [], subject=model, **inputs)
        return self.prepared[same]

    def add(
        self,
        kind: StepKind,
        title: str,
        needs: list[Step],
        *,
        subject: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Step:
        """Append a step; its key covers its inputs and, through their keys, all it builds on."""
        step = Step(
            id=new_id(),
            audit_id=self.audit_id,
            position=len(self.steps) + 1,  # 0 is the plan itself
            kind=kind,
            title=title,
            code_version=code_version(),
            key=content_key(
                kind=kind,
                subject=self.subject if subject is None else subject,
                needs=[needed.key for needed in needs],
                inputs={name: value for name, value in inputs.items() if name not in REFERENCES},
            ),
            needs=[needed.id for needed in needs],
            inputs=inputs,
        )
        self.steps.append(step)
        return step


MAX_TITLE = 255
MODEL = ("model", "dtype", "device")  # the parts of the subject that a preparation is about
# Names and ids; content is in keys and values.
REFERENCES = frozenset({"edit_step", "editor", "recipe", "freeze", "stressor", "checkpoint"})


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Load the model, settle what the request left open, and write the other steps."""
    request = context.request
    model = context.language_model
    check_edits(context)
    for recipe in request.recipes:
        check_recipe(
            model,
            recipe,
            dict(enumerate(request.edits)),
            request.probing.kinds,
            context.settings.tuning_processes,
        )
    for recipe in request.recipes:
        check_packing(model, recipe)
    tracing = layer_tracing(context, step)
    revisions = settle_tuned(context, step)
    settled = {choice.key: settle(context, step, choice, tracing) for choice in request.editors}
    hashes = {recipe.name: content_hash(context.records(recipe)) for recipe in request.recipes}
    layout = Layout(
        audit_id=context.audit.id,
        subject={
            "model": model.revision,
            "dtype": request.dtype,
            "device": model.device.type,
            "edits": context.edit_set.content_hash,
            "controls": request.controls.model_dump(mode="json"),
            "held_back_paraphrases": held_back_paraphrases(request),
            "probing": probing_identity(request.probing),
        },
        data={
            recipe.name: data_identity(recipe, context.records(recipe), context.replay(recipe))
            for recipe in request.recipes
        },
    )
    lay_out(layout, context, settled, revisions)

    def publish(session: Session) -> None:
        session.add_all(layout.steps)
        session.execute(
            update(Audit).where(col(Audit.id) == context.audit.id).values(model_revision=model.revision)
        )

    traced = tracing.report()
    overlaps = data_overlap(context)
    blocks = len(model.anatomy.blocks)
    edited = {key: chosen.edited_layers(blocks) for key, chosen in settled.items()}
    return StepOutcome(
        record={
            "data_hashes": hashes,
            "blocks": blocks,
            "mentions": mentions_in_data(context),
            "tracing": traced.model_dump(mode="json") if traced else None,
            "overlap": [found.model_dump(mode="json") for found in overlaps],
            "warnings": tracing.warnings + overlap_warnings(overlaps) + without_freezing(request, edited),
        },
        publish=publish,
    )


def layer_tracing(context: AuditContext, step: Step) -> LayerTracing:
    """For editors whose layers are left to causal tracing on what the audit's base model is to know."""
    request = context.request
    edits = [*request.edits, *request.controls.unedited]
    progress = progress_of_part(context, step, "tracing facts: pass {done} of {whole}")
    return LayerTracing(
        context.language_model,
        traceable_facts(edits, request.controls.facts),
        stage=lambda: nullcontext(progress),
    )


def settle(context: AuditContext, step: Step, choice: EditorChoice, tracing: LayerTracing) -> Hyperparameters:
    """An editor's hyperparameters for this model, as far as they can be told before its steps."""
    model = context.language_model
    chosen = settle_hyperparameters(model, choice.name, choice.hyperparameters, tracing, called=choice.key)
    if isinstance(chosen, SuppliedHyperparameters):
        progress = progress_of_part(context, step, "comparing weights: {done} of {whole}")
        return settle_supplied(model, chosen, context.settings, progress)
    return chosen


def check_edits(context: AuditContext) -> None:
    """Refuse edits that cannot be made or asked, before anything is computed; raises StepFailed."""
    model, request = context.language_model, context.request
    chosen = [
        choose_hyperparameters(model, choice.name, choice.hyperparameters, called=choice.key)
        for choice in request.editors
    ]
    check_edits_fit(
        model,
        dict(enumerate(request.edits)),
        held_back_paraphrases(request),
        max(longest_context(hyperparameters) for hyperparameters in chosen),
        request.probing.kinds,
    )


def lay_out(
    layout: Layout, context: AuditContext, settled: Mapping[str, Hyperparameters], revisions: Revisions
) -> None:
    """Add every step of the audit in the order they run.

    settled: the editors' hyperparameters, by key; revisions: of the models that were tuned elsewhere.
    """
    request = context.request
    base = layout.add(StepKind.BASE, "probe the base model", [])
    edits = [
        add_edit(layout, base, context, choice, paraphrases, settled[choice.key])
        for choice in request.editors
        for paraphrases in choice.paraphrases
    ]
    for recipe in request.recipes:
        frozen = {
            (freeze, edit.layers): settle_freezing(
                context.language_model, recipe, freeze, edit.step.inputs["editor"], edit.layers
            )
            for freeze in recipe.freeze
            for edit in edits
        }
        for seed in request.seeds:
            for freeze in recipe.freeze:
                for edit in edits:
                    held = frozen[freeze, edit.layers]
                    add_tuning(layout, base, None, recipe, freeze, held, seed)
                    add_tuning(layout, base, edit.step, recipe, freeze, held, seed)
    add_stresses(layout, base, [edit.step for edit in edits], context)
    add_probes(layout, base, {edit.step.inputs["editor"]: edit.step for edit in edits}, revisions, context)
    layout.add(StepKind.ANALYSE, "analyse and report", list(layout.steps))


def add_edit(
    layout: Layout,
    base: Step,
    context: AuditContext,
    choice: EditorChoice,
    paraphrases: int,
    chosen: Hyperparameters,
) -> PlannedEdit:
    """One application of one editor, with its layers settled, after whatever it needs prepared."""
    layers = chosen.edited_layers(len(context.language_model.anatomy.blocks))
    corpus = statistics_corpus(chosen, context.settings)
    settled = chosen.model_dump(mode="json")
    if isinstance(chosen, LayeredHyperparameters):
        settled["layers"] = list(layers)
        chosen = chosen.model_copy(update={"layers": layers})
    prepared = [layout.prepare(need) for need in needs(context, choice, paraphrases, chosen)]
    step = layout.add(
        StepKind.EDIT,
        f"edit: {choice.key}, k={paraphrases}",
        [base, *prepared],
        editor=choice.key,
        name=choice.name,
        paraphrases=paraphrases,
        hyperparameters=settled,
        corpus=content_hash(corpus) if corpus is not None else None,
    )
    return PlannedEdit(step, layers)


def add_tuning(
    layout: Layout,
    base: Step,
    edit: Step | None,
    recipe: Recipe,
    freeze: Freeze,
    frozen: Frozen,
    seed: int,
) -> Step:
    """One fine-tuning of the base or of an edited model, unless the same one is laid out already."""
    of = edit.inputs["editor"] + f", k={edit.inputs['paraphrases']}" if edit else "base"
    needs = [base, edit] if edit else [base]
    inputs: dict[str, Any] = {
        "editor": edit.inputs["editor"] if edit else None,
        "paraphrases": edit.inputs["paraphrases"] if edit else None,
        "edit_step": edit.id if edit else None,
        "recipe": recipe.name,
        "settings": recipe.model_dump(mode="json", exclude={"name", "freeze", "data"}),
        "data": layout.data[recipe.name],
        "freeze": freeze,
        "frozen_blocks": list(frozen.blocks),
        "frozen_parameters": list(frozen.parameters),
        "seed": seed,
    }
    same = f"{inputs['edit_step']}/{recipe.name}/{seed}/{frozen}/{freeze if edit else ''}"
    if same not in layout.tuned:
        blocks = f" (blocks {ranges(frozen.blocks)})" if frozen.blocks else ""
        title = f"tune: {of}, {recipe.name}, freeze={freeze}{blocks}, seed {seed}"[:MAX_TITLE]
        layout.tuned[same] = layout.add(StepKind.TUNE, title, needs, **inputs)
    return layout.tuned[same]
