"""MEND's hypernetworks: what an audit trains them on, and the step that does."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from services.worker.almanac import load_facts
from services.worker.almanac.editability import draw_counterfactuals
from services.worker.almanac.facts import facts_by_subject
from services.worker.editing.hypernetwork import Hypernetwork, load_hypernetwork
from services.worker.editing.hypernetwork_training import train_hypernetwork
from services.worker.language_models.memory import GpuMemory
from services.worker.steps.content_keys import content_key
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed
from services.worker.steps.preparation import Need, prepared
from services.worker.steps.progress import progress_of_part
from services.worker.steps.storing import fetched, store_patiently
from shared.editors import MendHyperparameters
from shared.editors.hyperparameters import Hyperparameters
from shared.edits import Edit
from shared.preparations import Preparation
from shared.requests import Controls, EditorChoice
from shared.states import Cause
from shared.tables import Step
from shared.training_edits import FEWEST_TRAINING_EDITS, unmeasured


def need(
    context: AuditContext, choice: EditorChoice, paraphrases: int, hyperparameters: Hyperparameters
) -> Need | None:
    """One hypernetwork for all that are trained alike, on the same edits, for as many edits at once."""
    if not isinstance(hyperparameters, MendHyperparameters):
        return None
    edits = training_edits(hyperparameters, context.request.edits, context.request.controls)
    if len(edits) < FEWEST_TRAINING_EDITS:
        raise StepFailed(
            Cause.USER,
            f"editor {choice.key}: {len(edits)} edits that the audit does not measure are left to train on; "
            f"{FEWEST_TRAINING_EDITS} are needed",
        )
    return Need(
        Preparation.HYPERNETWORK,
        choice.key,
        {
            "hyperparameters": hyperparameters.model_dump(mode="json"),
            "edits_at_once": hyperparameters.group_size(len(context.request.edits) * (1 + paraphrases)),
            "edits": content_key(edits=[edit.model_dump(mode="json") for edit in edits]),
        },
    )


def training_edits(
    hyperparameters: MendHyperparameters, edits: Sequence[Edit], controls: Controls
) -> list[Edit]:
    """The edits that the hyperparameters name to learn from, without any that the audit measures."""
    named = counterfactuals(hyperparameters.seed)
    if hyperparameters.training == "unedited":
        named = list(controls.unedited)
    return unmeasured(named, edits, controls.facts, controls.unedited)


def counterfactuals(seed: int) -> list[Edit]:
    """One counterfactual of each of the almanac's subjects."""
    facts = load_facts()
    source = random.Random(seed)  # noqa: S311 (a draw to be repeated, nothing secret)
    drawn = draw_counterfactuals(facts, len(facts_by_subject(facts)), source)
    return [counterfactual.edit() for counterfactual in drawn]


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Train the hypernetwork and store it."""
    hyperparameters = MendHyperparameters.model_validate(step.inputs["hyperparameters"])
    memory = GpuMemory()
    edits = training_edits(hyperparameters, context.request.edits, context.request.controls)
    trained = train_hypernetwork(
        context.language_model,
        edits,
        hyperparameters,
        edits_to_make=step.inputs["edits_at_once"],
        progress=progress_of_part(context, step, "training a hypernetwork: {done} of {whole}"),
        memory=memory,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hypernetwork.safetensors"
        trained.hypernetwork.save(path)
        artifact = store_patiently(context, step, lambda: context.store.put_file(path, ".safetensors"))
    return StepOutcome(
        record={
            "training_edits": min(len(edits), hyperparameters.training_edits),
            "edit_losses": [trained.edit_losses[0], trained.edit_losses[-1]],
            "divergences": [trained.divergences[0], trained.divergences[-1]],
            "warnings": [f"{step.title}: {warning}" for warning in memory.warnings],
            "environment": environment(context.language_model),
        },
        artifact=artifact,
    )


def stored_hypernetwork(context: AuditContext, step: Step) -> Hypernetwork | None:
    """What was trained for an edit step, None where it needs none.

    Raises:
        InputDamaged: it is missing, truncated or altered.
    """
    made = prepared(context, step, Preparation.HYPERNETWORK)
    if made is None:
        return None
    with fetched(context, made.id) as path:
        return load_hypernetwork(path)
