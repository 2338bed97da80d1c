"""One application of one editor: the `edited` arm, and the modification that later steps start from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from services.worker.editing.augmentation import augment_with_paraphrases
from services.worker.editing.catalogue import EDITORS, prepare_materials
from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.stored_modifications import load_modification
from services.worker.editing.token_positions import SubjectNotFound, SubjectTruncated
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.modification import Modification
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed, explain
from services.worker.steps.hypernetworks import stored_hypernetwork
from services.worker.steps.measured import fluency_record, measured_probes, score_fully
from services.worker.steps.not_taken import edits_not_taken, warning_of_many
from services.worker.steps.paraphrases import edits_to_make
from services.worker.steps.progress import progress_of_part
from services.worker.steps.statistics_corpus import planned_corpus
from services.worker.steps.storing import fetched, store_patiently
from services.worker.steps.supplied import supplied_path
from shared.artifacts import Artifact
from shared.editors import CATALOGUE, Hyperparameters
from shared.edits import Edit
from shared.measurement import Arm
from shared.tables import Step

SAMPLING_SEED = 0  # contexts and statistics are part of the method, not of the trial's randomness
STATISTICS_DONE, EDITING_DONE = 0.2, 0.8  # shares of the step's progress, roughly


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Edit, store the modification, and probe the edited model."""
    language_model, memory = context.language_model, GpuMemory()
    outcome, statistics = make_edits(context, step, memory)
    probes = measured_probes(context)
    with outcome.modification.applied(language_model) as edited:
        scores = score_fully(
            edited,
            probes,
            context.request.probing,
            progress=progress_of_part(context, step, "probe {done} of {whole}", start=EDITING_DONE),
            memory=memory,
        )
        fluency = fluency_record(context.request, edited, memory)
        missed = edits_not_taken(edited, dict(enumerate(context.request.edits)), probes, scores, memory)
    warnings = [
        *outcome.warnings,
        *warning_of_many(len(missed), len(context.request.edits)),
        *memory.warnings,
    ]
    return StepOutcome(
        record={
            "edited_layers": list(outcome.edited_layers),
            "not_taken": [edit.model_dump(mode="json") for edit in missed],
            "target_tokens": target_tokens(language_model, context.request.edits),
            "losses": [[row[0], row[-1]] for row in outcome.losses if row],
            "key_statistics": recorded(statistics),
            "ridges": {str(layer): ridge for layer, ridge in outcome.ridges.items()},
            "free_directions": {str(layer): count for layer, count in outcome.free_directions.items()},
            "fluency": fluency,
            "warnings": [f"{step.title}: {warning}" for warning in warnings],
            "environment": environment(language_model),
        },
        artifact=store_modification(context, step, outcome.modification),
        arms=[ArmScores(Arm.EDITED, 0, probes, scores)],
    )


def target_tokens(language_model: LanguageModel, edits: Sequence[Edit]) -> list[int]:
    """Tokens of every edit's new target, as it follows its prompt after a space and as probes encode it."""
    return [len(encode_target(language_model.tokenizer, edit.target_new)) for edit in edits]


def recorded(statistics: KeyStatistics) -> dict[str, Any] | None:
    """How settled the key statistics are; None where the editor took none."""
    if not statistics.second_moments:
        return None
    split_half = {str(layer): value for layer, value in statistics.split_half.items()}
    return {"tokens": statistics.token_count, "split_half": split_half}


def make_edits(context: AuditContext, step: Step, memory: GpuMemory) -> tuple[EditOutcome, KeyStatistics]:
    """Find the modification that makes the request's edits, with the paraphrases that the step trains on.

    Returns the key statistics that were used as well.
    """
    hyperparameters = CATALOGUE[step.inputs["name"]].hyperparameters.model_validate(
        step.inputs["hyperparameters"]
    )
    language_model = context.language_model
    requested, count = edits_to_make(context, step), step.inputs["paraphrases"]
    told = partial(progress_of_part, context, step)
    with named_as_requested(len(requested), count):
        edits = augment_with_paraphrases(requested, count)
        materials = gather_materials(context, step, hyperparameters, memory)
        editing = told("editing", start=STATISTICS_DONE, end=EDITING_DONE)
        outcome = EDITORS[step.inputs["name"]].edit(
            language_model, edits, hyperparameters, materials, EditingRun(progress=editing, memory=memory)
        )
    return outcome, materials.statistics


def gather_materials(
    context: AuditContext, step: Step, hyperparameters: Hyperparameters, memory: GpuMemory
) -> Materials:
    """What the editor of a step needs beside the edits, taken from the base model."""
    told = partial(progress_of_part, context, step)
    return prepare_materials(
        context.language_model,
        hyperparameters,
        hypernetwork=stored_hypernetwork(context, step),
        supplied=supplied_path(hyperparameters, context.settings),
        texts=planned_corpus(hyperparameters, context.settings, step.inputs["corpus"]),
        seed=SAMPLING_SEED,
        cache=context.settings.data_directory / "statistics",
        statistics_progress=told("key statistics: token {done} of {whole}", end=STATISTICS_DONE),
        contexts_progress=told("contexts", start=STATISTICS_DONE, end=STATISTICS_DONE),
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


def store_modification(context: AuditContext, step: Step, modification: Modification) -> Artifact:
    """Put a modification into the artifact store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "modification.safetensors"
        modification.save(path)
        return store_patiently(context, step, lambda: context.store.put_file(path, ".safetensors"))


def stored_modification(context: AuditContext, step_id: str) -> Modification:
    """What an edit step stored, checked against its hash.

    Raises:
        InputDamaged: it is missing, truncated or altered.
    """
    with fetched(context, step_id) as path:
        return load_modification(path)
