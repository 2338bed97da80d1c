"""One application of one editor: the `edited` arm, and the delta that later steps start from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from services.worker.editing.augmentation import augment_with_paraphrases
from services.worker.editing.catalogue import EDITORS, prepare_contexts, prepare_statistics
from services.worker.editing.editor import EditFailed, EditOutcome
from services.worker.editing.token_positions import SubjectNotFound, SubjectTruncated
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.weight_delta import WeightDelta, applied
from services.worker.probing.scoring import score
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.environment import environment
from services.worker.steps.failures import InputDamaged, StepFailed, explain
from services.worker.steps.measured import measured_probes
from services.worker.steps.progress import progress_of_part
from services.worker.steps.storing import store_patiently
from shared.artifacts import Artifact, ArtifactCorrupt
from shared.editors import CATALOGUE
from shared.measurement import Arm
from shared.tables import Step

SAMPLING_SEED = 0  # contexts and statistics are part of the method, not of the trial's randomness
STATISTICS_DONE, EDITING_DONE = 0.2, 0.8  # shares of the step's progress, roughly


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Edit, store the delta, and probe the edited model."""
    language_model, memory = context.language_model, GpuMemory()
    outcome = make_edits(context, step, memory)
    probes = measured_probes(context)
    with applied(language_model.model, outcome.delta):
        scores = score(
            language_model,
            probes,
            progress=progress_of_part(context, step, "probe {done} of {whole}", start=EDITING_DONE),
            memory=memory,
        )
    return StepOutcome(
        record={
            "edited_layers": list(outcome.edited_layers),
            "losses": [[row[0], row[-1]] for row in outcome.losses if row],
            "warnings": [f"{step.title}: {warning}" for warning in memory.warnings],
            "environment": environment(language_model),
        },
        artifact=store_delta(context, step, outcome.delta),
        arms=[ArmScores(Arm.EDITED, 0, probes, scores)],
    )


def make_edits(context: AuditContext, step: Step, memory: GpuMemory) -> EditOutcome:
    """Find the delta that makes the request's edits, with the paraphrases that the step trains on."""
    hyperparameters = CATALOGUE[step.inputs["name"]].hyperparameters.model_validate(
        step.inputs["hyperparameters"]
    )
    language_model = context.language_model
    requested, count = context.request.edits, step.inputs["paraphrases"]
    told = partial(progress_of_part, context, step)
    with named_as_requested(len(requested), count):
        return EDITORS[step.inputs["name"]].edit(
            language_model,
            augment_with_paraphrases(requested, count),
            hyperparameters,
            statistics=prepare_statistics(
                language_model,
                hyperparameters,
                seed=SAMPLING_SEED,
                cache=context.settings.data_directory / "statistics",
                progress=told("key statistics: token {done} of {whole}", end=STATISTICS_DONE),
                memory=memory,
            ),
            contexts=prepare_contexts(
                language_model,
                hyperparameters,
                seed=SAMPLING_SEED,
                progress=told("contexts", start=STATISTICS_DONE, end=STATISTICS_DONE),
                memory=memory,
            ),
            progress=told("editing", start=STATISTICS_DONE, end=EDITING_DONE),
            memory=memory,
        )


@contextmanager
def named_as_requested(edits: int, paraphrases: int) -> Iterator[None]:
    """Name an edit that fails by its place in the request: its paraphrases are edits of their own here."""
    try:
        yield
    except (EditFailed, SubjectNotFound, SubjectTruncated) as error:
        if error.edit_index is None or error.edit_index < edits:
            raise
        original, paraphrase = divmod(error.edit_index - edits, paraphrases)
        failure = explain(error)
        named = failure.reason.replace(
            f"edits.{error.edit_index}:", f"edits.{original}.paraphrases.{paraphrase}:", 1
        )
        raise StepFailed(failure.cause, named) from error


def store_delta(context: AuditContext, step: Step, delta: WeightDelta) -> Artifact:
    """Put a delta into the artifact store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "delta.safetensors"
        delta.save(path)
        return store_patiently(context, step, lambda: context.store.put_file(path, ".safetensors"))


def stored_delta(context: AuditContext, step_id: str) -> WeightDelta:
    """The delta of an edit step, checked against its hash.

    Raises:
        InputDamaged: it is missing, truncated or altered.
    """
    step = context.step(step_id)
    if step.artifact is None or step.artifact_sha256 is None:
        raise InputDamaged(step_id, "it is being computed again")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "delta.safetensors"
        try:
            context.store.get_file(Artifact(step.artifact, step.artifact_sha256), path)
        except ArtifactCorrupt as damage:
            raise InputDamaged(step_id, str(damage)) from damage
        return WeightDelta.load(path)
