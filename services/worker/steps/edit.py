"""One application of one editor: the `edited` arm, and the delta that later steps start from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.worker.editing.augmentation import augment_with_paraphrases
from services.worker.editing.catalogue import EDITORS, prepare_contexts, prepare_statistics
from services.worker.editing.editor import EditFailed
from services.worker.editing.token_positions import SubjectNotFound, SubjectTruncated
from services.worker.language_models.weight_delta import WeightDelta, applied
from services.worker.probing.scoring import score
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.failures import InputDamaged, StepFailed, explain
from services.worker.steps.measured import measured_probes
from shared.artifacts import Artifact, ArtifactCorrupt
from shared.editors import CATALOGUE
from shared.measurement import Arm
from shared.tables import Step

SAMPLING_SEED = 0  # contexts and statistics are part of the method, not of the trial's randomness
STATISTICS_SHARE = 0.2  # of the step's progress, roughly


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Edit, store the delta, and probe the edited model."""
    hyperparameters = CATALOGUE[step.inputs["name"]].hyperparameters.model_validate(
        step.inputs["hyperparameters"]
    )
    language_model = context.language_model
    context.report_progress(step, 0.0, "key statistics")
    requested, count = context.request.edits, step.inputs["paraphrases"]
    with named_as_requested(len(requested), count):
        outcome = EDITORS[step.inputs["name"]].edit(
            language_model,
            augment_with_paraphrases(requested, count),
            hyperparameters,
            statistics=prepare_statistics(
                language_model,
                hyperparameters,
                seed=SAMPLING_SEED,
                cache=context.settings.data_directory / "statistics",
            ),
            contexts=prepare_contexts(language_model, hyperparameters, seed=SAMPLING_SEED),
            progress=lambda done, total: context.report_progress(
                step, STATISTICS_SHARE + (1 - STATISTICS_SHARE) * done / total, "editing"
            ),
        )
    probes = measured_probes(context)
    with applied(language_model.model, outcome.delta):
        scores = score(language_model, probes)
    return StepOutcome(
        record={
            "edited_layers": list(outcome.edited_layers),
            "losses": [[row[0], row[-1]] for row in outcome.losses if row],
        },
        artifact=store_delta(context, outcome.delta),
        arms=[ArmScores(Arm.EDITED, 0, probes, scores)],
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


def store_delta(context: AuditContext, delta: WeightDelta) -> Artifact:
    """Put a delta into the artifact store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "delta.safetensors"
        delta.save(path)
        return context.store.put_file(path, ".safetensors")


def stored_delta(context: AuditContext, step_id: str) -> WeightDelta:
    """The delta of an edit step, checked against its hash.

    Raises:
        InputDamaged: it is missing, truncated or altered.
    """
    step = context.step(step_id)
    assert step.artifact is not None  # noqa: S101 (an edit step that succeeded has one)
    assert step.artifact_sha256 is not None  # noqa: S101
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "delta.safetensors"
        try:
            context.store.get_file(Artifact(step.artifact, step.artifact_sha256), path)
        except ArtifactCorrupt as damage:
            raise InputDamaged(step_id, str(damage)) from damage
        return WeightDelta.load(path)
