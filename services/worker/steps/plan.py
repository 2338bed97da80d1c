"""Lays out the steps of an audit: one base, E edits, and a tuning per (edit or base) × recipe × seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from services.worker.steps.content_keys import code_version, content_key
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.failures import StepFailed
from services.worker.steps.measured import held_back_paraphrases
from services.worker.tuning.freezing import frozen_blocks
from shared.editors import CATALOGUE, LayerNotInModel
from shared.recipes import Freeze, Recipe
from shared.requests import AuditRequest, EditorChoice
from shared.states import Cause, StepKind
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
    data_hashes: dict[str, str]
    steps: list[Step] = field(default_factory=list)
    tuned: dict[str, Step] = field(default_factory=dict)

    def add(self, kind: StepKind, title: str, needs: list[Step], **inputs: Any) -> Step:
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
                subject=self.subject,
                needs=[needed.key for needed in needs],
                inputs={name: value for name, value in inputs.items() if name not in REFERENCES},
            ),
            needs=[needed.id for needed in needs],
            inputs=inputs,
        )
        self.steps.append(step)
        return step


MAX_TITLE = 255
REFERENCES = frozenset({"edit_step", "editor", "recipe"})  # names and ids; content is in keys and values


def run(context: AuditContext, _step: Step) -> StepOutcome:
    """Load the model, settle what the request left open, and write the other steps."""
    request = context.request
    model = context.language_model
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
        },
        data_hashes=hashes,
    )
    lay_out(layout, request, len(model.anatomy.blocks))

    def publish(session: Session) -> None:
        session.add_all(layout.steps)
        session.execute(
            update(Audit).where(col(Audit.id) == context.audit.id).values(model_revision=model.revision)
        )

    return StepOutcome(record={"data_hashes": hashes, "blocks": len(model.anatomy.blocks)}, publish=publish)


def lay_out(layout: Layout, request: AuditRequest, block_count: int) -> None:
    """Add every step of the audit in the order they run."""
    base = layout.add(StepKind.BASE, "probe the base model", [])
    edits = [
        add_edit(layout, base, request, choice, paraphrases, block_count)
        for choice in request.editors
        for paraphrases in choice.paraphrases
    ]
    for recipe in request.recipes:
        for seed in request.seeds:
            for freeze in recipe.freeze:
                for edit in edits:
                    frozen = list(frozen_blocks(freeze, edit.layers))
                    add_tuning(layout, base, None, recipe, freeze, frozen, seed)
                    add_tuning(layout, base, edit.step, recipe, freeze, frozen, seed)
    layout.add(StepKind.ANALYSE, "analyse and report", list(layout.steps))


def add_edit(
    layout: Layout,
    base: Step,
    request: AuditRequest,
    choice: EditorChoice,
    paraphrases: int,
    block_count: int,
) -> PlannedEdit:
    """One application of one editor, with its layers settled."""
    chosen = CATALOGUE[choice.name].settle(request.model, choice.hyperparameters)
    try:
        layers = chosen.edited_layers(block_count)
    except LayerNotInModel as error:
        raise StepFailed(Cause.USER, f"editor {choice.key}: {error}") from None
    settled = {**chosen.model_dump(mode="json"), "layers": list(layers)}
    step = layout.add(
        StepKind.EDIT,
        f"edit: {choice.key}, k={paraphrases}",
        [base],
        editor=choice.key,
        name=choice.name,
        paraphrases=paraphrases,
        hyperparameters=settled,
    )
    return PlannedEdit(step, layers)


def add_tuning(
    layout: Layout,
    base: Step,
    edit: Step | None,
    recipe: Recipe,
    freeze: Freeze,
    frozen_blocks: list[int],
    seed: int,
) -> Step:
    """One fine-tuning of the base or of an edited model, unless the same one is laid out already."""
    of = edit.inputs["editor"] + f", k={edit.inputs['paraphrases']}" if edit else "base"
    needs = [base, edit] if edit else [base]
    inputs = {
        "editor": edit.inputs["editor"] if edit else None,
        "paraphrases": edit.inputs["paraphrases"] if edit else None,
        "edit_step": edit.id if edit else None,
        "recipe": recipe.name,
        "settings": recipe.model_dump(mode="json", exclude={"name", "freeze", "data"}),
        "data": [layout.data_hashes[recipe.name], recipe.data.held_out_share, recipe.data.limit],
        "freeze": freeze,
        "frozen_blocks": frozen_blocks,
        "seed": seed,
    }
    same = f"{inputs['edit_step']}/{recipe.name}/{seed}/{frozen_blocks}/{freeze if edit else ''}"
    if same not in layout.tuned:
        blocks = f" (blocks {ranges(frozen_blocks)})" if frozen_blocks else ""
        title = f"tune: {of}, {recipe.name}, freeze={freeze}{blocks}, seed {seed}"[:MAX_TITLE]
        layout.tuned[same] = layout.add(StepKind.TUNE, title, needs, **inputs)
    return layout.tuned[same]


def ranges(numbers: list[int]) -> str:
    """Ascending numbers in few words: 0, 2-5, 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
