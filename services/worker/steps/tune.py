"""One trial's fine-tuning, probed at log-spaced steps: the arms `base→tuned` and `edited→tuned`."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from services.worker.language_models.memory import GpuMemory, free_gpu_memory
from services.worker.language_models.weight_delta import applied
from services.worker.probing.scoring import score
from services.worker.steps.arm_notes import from_notes, to_notes
from services.worker.steps.checkpoints import CheckpointKeeper
from services.worker.steps.context import ArmScores, AuditContext, Records, StepOutcome
from services.worker.steps.edit import stored_delta
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed
from services.worker.steps.measured import measured_probes
from services.worker.steps.progress import progress_of_part
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Continuation
from services.worker.tuning.errors import CheckpointUnusable, MicroBatchTooLarge
from services.worker.tuning.micro_batches import smaller_micro_batch
from services.worker.tuning.run import TuningOutcome, tune
from shared.measurement import Arm, Probe, ProbeKind
from shared.recipes import Recipe
from shared.states import Cause
from shared.tables import Step
from shared.training_data import content_hash


@dataclass(frozen=True)
class Trial:
    """What every attempt at the step shares; `probes` are asked at its end."""

    context: AuditContext
    step: Step
    recipe: Recipe
    records: Records
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
    records = planned_records(context, recipe, step.inputs["data"][0])
    keeper = CheckpointKeeper(context, step)
    with starting_model(context, step), tempfile.TemporaryDirectory() as workdir:
        return within_memory(
            Trial(context, step, recipe, records, measured_probes(context), keeper, Path(workdir))
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
            micro_batch = smaller_micro_batch(trial.recipe.batch_size, too_large.micro_batch)
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

    def probe(tuning_step: int) -> None:
        asked = trial.probes if tuning_step == recipe.steps else followed
        share = tuning_step / recipe.steps
        told = progress_of_part(
            context, step, f"step {tuning_step}: probe {{done}} of {{whole}}", start=share, end=share
        )
        scores = score(context.language_model, asked, progress=told, memory=memory)
        arms.append(ArmScores(trial.arm, tuning_step, asked, scores))

    def progress(done: int, total: int, loss: float | None) -> None:
        note = f"step {done} of {total}" + (f", loss {loss:.3f}" if loss is not None else "")
        context.report_progress(step, done / total, note)

    outcome = tune(
        context.language_model,
        recipe,
        trial.records,
        frozen_blocks=step.inputs["frozen_blocks"],
        seed=step.inputs["seed"],
        probe=probe,
        progress=progress,
        workdir=trial.workdir,
        micro_batch=micro_batch,
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
            "warnings": warnings(recipe, outcome)
            + [f"{step.title}: {warning}" for warning in memory.warnings],
            "environment": environment(context.language_model),
        },
        arms=arms,
    )


def planned_records(context: AuditContext, recipe: Recipe, planned_hash: str) -> Records:
    """The recipe's records, which must be those that the step's key was made from."""
    records = context.records(recipe)
    if content_hash(records) != planned_hash:
        raise StepFailed(Cause.USER, f"the data of recipe {recipe.name} changed since the audit began")
    return records


def warnings(recipe: Recipe, outcome: TuningOutcome) -> list[str]:
    """Say what was done otherwise than the recipe has it, so that nobody believes it was."""
    told = []
    if outcome.left_out:
        told.append(f"recipe {recipe.name}: {outcome.left_out} records do not fit the sequence length")
    if outcome.micro_batch < recipe.batch_size:
        told.append(
            f"recipe {recipe.name}: ran out of GPU memory with {recipe.batch_size} sequences at once; "
            f"{outcome.micro_batch} at a time were used, which changes sums only by rounding, and which "
            "units any dropout leaves out"
        )
    return told


def starting_model(context: AuditContext, step: Step) -> AbstractContextManager[None]:
    """The base as it is, or with the edit step's delta added while the context lasts."""
    if step.inputs["edit_step"] is None:
        return nullcontext()
    return applied(context.language_model.model, stored_delta(context, step.inputs["edit_step"]))
