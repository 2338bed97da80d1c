"""One trial's fine-tuning, probed at log-spaced steps: the arms `base→tuned` and `edited→tuned`."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory, free_gpu_memory
from services.worker.language_models.modification import Modification
from services.worker.probing.scoring import score
from services.worker.steps.arm_notes import from_notes, to_notes
from services.worker.steps.checkpoints import CheckpointKeeper
from services.worker.steps.context import ArmScores, AuditContext, Records, StepOutcome
from services.worker.steps.edit import stored_modification
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed
from services.worker.steps.measured import fluency_record, in_every_mode, measured_probes
from services.worker.steps.progress import progress_of_part
from services.worker.steps.recipe_data import planned_data
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Continuation
from services.worker.tuning.drift import Written, weight_drift, written_matrices
from services.worker.tuning.errors import CheckpointUnusable, MicroBatchTooLarge
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.micro_batches import smaller_micro_batch
from services.worker.tuning.run import TuningOutcome, tune
from shared.measurement import Arm, Probe, ProbeKind
from shared.recipes import Objective, Recipe, TextRecord
from shared.reports import WeightDrift
from shared.states import Cause
from shared.tables import Step


@dataclass(frozen=True)
class Trial:
    """What every attempt at the step shares; `probes` are asked at its end.

    written: the matrices that the editor changed, as the tuning finds them.
    """

    context: AuditContext
    step: Step
    language_model: LanguageModel
    written: list[Written]
    recipe: Recipe
    records: Records
    replay: list[TextRecord]
    probes: list[Probe]
    keeper: CheckpointKeeper
    workdir: Path

    @property
    def followed(self) -> list[Probe]:
        """The probes that are asked along the way: the curves need no more."""
        return [probe for probe in self.probes if probe.probe_kind is ProbeKind.REWRITE]

    @property
    def arm(self) -> Arm:
        """Where the trial starts from, and that it has been tuned."""
        return Arm.BASE_TUNED if self.step.inputs["edit_step"] is None else Arm.EDITED_TUNED


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Tune the base or an edited model by a recipe and keep what the probes say along the way.

    Goes on from a checkpoint of this step where there is one.

    Raises:
        HandedOver: the worker was stopped; a checkpoint was stored, if there was a way to.
    """
    recipe = next(recipe for recipe in context.request.recipes if recipe.name == step.inputs["recipe"])
    records, replay = planned_data(context, recipe, step.inputs["data"])
    keeper = CheckpointKeeper(context, step)
    probes = measured_probes(context)
    modification = starting_modification(context, step)
    with starting_model(context, modification) as start, tempfile.TemporaryDirectory() as workdir:
        written = written_matrices(start.model, modification)
        return within_memory(
            Trial(context, step, start, written, recipe, records, replay, probes, keeper, Path(workdir))
        )


def within_memory(trial: Trial) -> StepOutcome:
    """Run the trial, from its start where the checkpoint is of no use or the GPU's memory too small.

    What was begun with larger micro-batches is not gone on with in smaller ones: no uninterrupted run
    would give its numbers.
    """
    stored, micro_batch = trial.keeper.find(trial.workdir), None
    while True:
        try:
            return attempt(trial, stored, micro_batch)
        except CheckpointUnusable as unusable:
            trial.context.say(trial.step, "step.checkpoint_ignored", error=unusable.reason)
        except MicroBatchTooLarge as too_large:
            micro_batch = smaller_micro_batch(
                trial.recipe.batch_size, too_large.micro_batch, trial.context.settings.tuning_processes
            )
            if micro_batch is None:
                raise StepFailed(
                    Cause.INFRASTRUCTURE,
                    f"recipe {trial.recipe.name}: the GPU's memory does not hold a training pass over even "
                    f"one sequence of {trial.recipe.sequence_length} tokens",
                ) from too_large
            trial.context.say(trial.step, "step.out_of_memory", micro_batch=micro_batch)
        stored = None
        free_gpu_memory()  # here, where the error no longer holds on to what did not fit


def attempt(trial: Trial, stored: Path | None, micro_batch: int | None) -> StepOutcome:
    """Run the trial to its end.

    micro_batch: see `tune`.

    Raises:
        CheckpointUnusable: `stored` is of no use for this trial; nothing was done.
        MicroBatchTooLarge: see `tune`.
    """
    context, step, recipe, followed = trial.context, trial.step, trial.recipe, trial.followed
    checkpoint = Checkpoint.read(stored) if stored else None
    arms = from_notes(checkpoint.notes, trial.arm, followed) if checkpoint else []
    memory = GpuMemory()
    last = recipe.steps

    def stopping(tuning_step: int) -> None:
        nonlocal last
        last = tuning_step

    def probe(tuning_step: int) -> None:
        asked = trial.probes if tuning_step == last else followed
        share = tuning_step / recipe.steps
        told = progress_of_part(
            context, step, f"step {tuning_step}: probe {{done}} of {{whole}}", start=share, end=share
        )
        scores = score(trial.language_model, asked, progress=told, memory=memory)
        if tuning_step == last:
            scores = in_every_mode(trial.language_model, asked, scores, context.request.probing, memory)
        arms.append(ArmScores(trial.arm, tuning_step, asked, scores))

    def progress(done: int, total: int, loss: float | None) -> None:
        note = f"step {done} of {total}" + (f", loss {loss:.3f}" if loss is not None else "")
        context.report_progress(step, done / total, note)

    drift: list[WeightDrift] = []
    fluency: list[dict[str, Any] | None] = []

    def measure_once() -> None:
        drift.extend(weight_drift(trial.language_model.model, trial.written))
        fluency.append(fluency_record(context.request, trial.language_model, memory))

    outcome = tune(
        trial.language_model,
        recipe,
        trial.records,
        replay=trial.replay,
        frozen=planned_freezing(step),
        seed=step.inputs["seed"],
        probe=probe,
        progress=progress,
        stopping=stopping,
        finished=measure_once,
        workdir=trial.workdir,
        micro_batch=micro_batch,
        processes=context.settings.tuning_processes,
        continuation=Continuation(
            resume=checkpoint,
            due=trial.keeper.due,
            asked_to_hand_over=context.asked_to_hand_over,
            store=lambda path, done: trial.keeper.store(path, done / recipe.steps),
            notes=lambda: to_notes(arms, followed),
        ),
        memory=memory,
    )
    return StepOutcome(
        record={
            "held_out_loss_before": outcome.held_out_loss_before,
            "held_out_loss_after": outcome.held_out_loss_after,
            "tokens_seen": outcome.tokens_seen,
            "steps": len(outcome.losses),
            "drift": [matrix.model_dump(mode="json") for matrix in drift],
            "fluency": fluency[0],
            "warnings": warnings(recipe, outcome)
            + [f"{step.title}: {warning}" for warning in memory.warnings],
            "environment": {
                **environment(trial.language_model),
                "tuning_processes": context.settings.tuning_processes,
            },
        },
        arms=arms,
    )


def planned_freezing(step: Step) -> Frozen:
    """What the plan found to be frozen."""
    return Frozen(tuple(step.inputs["frozen_blocks"]), tuple(step.inputs["frozen_parameters"]))


def warnings(recipe: Recipe, outcome: TuningOutcome) -> list[str]:
    """Say what was done otherwise than the recipe has it, so that nobody believes it was."""
    told = []
    if outcome.left_out:
        told.append(f"recipe {recipe.name}: {outcome.left_out} records do not fit the sequence length")
    if outcome.shortened:
        told.append(
            f"recipe {recipe.name}: {outcome.shortened} records lost the beginning of their prompt, or their "
            "last turns, to the sequence length"
        )
    if recipe.objective is Objective.PREFERENCE and getattr(recipe.update, "dropout", False):
        told.append(
            f"recipe {recipe.name}: preferences are learned without dropout; the update's is not used"
        )
    if outcome.micro_batch < recipe.micro_batch:
        told.append(
            f"recipe {recipe.name}: ran out of GPU memory with {recipe.micro_batch} sequences at once; "
            f"{outcome.micro_batch} at a time were used, which changes sums only by rounding, and which "
            "units any dropout leaves out"
        )
    return told


def starting_modification(context: AuditContext, step: Step) -> Modification | None:
    """What the edit step did to the base; None where the base itself is tuned."""
    edit_step = step.inputs["edit_step"]
    return None if edit_step is None else stored_modification(context, edit_step)


def starting_model(
    context: AuditContext, modification: Modification | None
) -> AbstractContextManager[LanguageModel]:
    """The base as it is, or modified while the context lasts."""
    if modification is None:
        return nullcontext(context.language_model)
    return modification.applied(context.language_model)
