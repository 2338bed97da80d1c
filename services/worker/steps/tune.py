"""One trial's fine-tuning, probed at log-spaced steps: the arms `base→tuned` and `edited→tuned`."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from services.worker.language_models.weight_delta import applied
from services.worker.probing.scoring import score
from services.worker.steps.context import ArmScores, AuditContext, Records, StepOutcome
from services.worker.steps.edit import stored_delta
from services.worker.steps.failures import StepFailed
from services.worker.steps.measured import measured_probes
from services.worker.tuning.run import tune
from shared.measurement import Arm, ProbeKind
from shared.recipes import Recipe
from shared.states import Cause
from shared.tables import Step
from shared.training_data import content_hash


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Tune the base or an edited model by a recipe and keep what the probes say along the way."""
    recipe = next(recipe for recipe in context.request.recipes if recipe.name == step.inputs["recipe"])
    probes = measured_probes(context)
    followed = [probe for probe in probes if probe.probe_kind is ProbeKind.REWRITE]  # the curves need no more
    arm = Arm.BASE_TUNED if step.inputs["edit_step"] is None else Arm.EDITED_TUNED
    arms: list[ArmScores] = []

    def probe(tuning_step: int) -> None:
        asked = probes if tuning_step == recipe.steps else followed
        arms.append(ArmScores(arm, tuning_step, asked, score(context.language_model, asked)))

    def progress(done: int, total: int, loss: float | None) -> None:
        note = f"step {done} of {total}" + (f", loss {loss:.3f}" if loss is not None else "")
        context.report_progress(step, done / total, note)

    with starting_model(context, step), tempfile.TemporaryDirectory() as workdir:
        outcome = tune(
            context.language_model,
            recipe,
            planned_records(context, recipe, step.inputs["data"][0]),
            frozen_blocks=step.inputs["frozen_blocks"],
            seed=step.inputs["seed"],
            probe=probe,
            progress=progress,
            workdir=Path(workdir),
        )
    return StepOutcome(
        record={
            "held_out_loss_before": outcome.held_out_loss_before,
            "held_out_loss_after": outcome.held_out_loss_after,
            "tokens_seen": outcome.tokens_seen,
            "warnings": left_out_warnings(recipe.name, outcome.left_out),
        },
        arms=arms,
    )


def planned_records(context: AuditContext, recipe: Recipe, planned_hash: str) -> Records:
    """The recipe's records, which must be those that the step's key was made from."""
    records = context.records(recipe)
    if content_hash(records) != planned_hash:
        raise StepFailed(Cause.USER, f"the data of recipe {recipe.name} changed since the audit began")
    return records


def left_out_warnings(recipe: str, records: int) -> list[str]:
    """Say that records were not used, so that nobody believes they were."""
    return [f"recipe {recipe}: {records} records do not fit the sequence length"] if records else []


def starting_model(context: AuditContext, step: Step) -> AbstractContextManager[None]:
    """The base as it is, or with the edit step's delta added while the context lasts."""
    if step.inputs["edit_step"] is None:
        return nullcontext()
    return applied(context.language_model.model, stored_delta(context, step.inputs["edit_step"]))
