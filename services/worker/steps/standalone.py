"""One application of one editor without the service: a model goes in, an edited model comes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from services.worker.editing.catalogue import EDITORS, prepare_materials
from services.worker.editing.contexts import Contexts
from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.given_materials import read_statistics
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.token_positions import SubjectNotFound, SubjectTruncated
from services.worker.editing.trace import KeptTrace
from services.worker.editing.ultraedit import check_first_batch
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress
from services.worker.language_models.saving import save_language_model
from services.worker.language_models.weight_delta import WeightDelta
from services.worker.probing.probes import edit_probes
from services.worker.probing.scoring import score
from services.worker.steps.failures import StepFailed, explain
from services.worker.steps.fitting import check_edits_fit, longest_context
from services.worker.steps.hypernetworks import training_edits
from services.worker.steps.not_taken import edits_not_taken
from services.worker.steps.settling import LayerTracing, choose_hyperparameters, traceable_facts
from services.worker.steps.statistics_corpus import statistics_corpus
from services.worker.steps.supplied import supplied_path
from shared.editors import (
    CATALOGUE,
    ContextHyperparameters,
    Hyperparameters,
    KeyStatisticsHyperparameters,
    MendHyperparameters,
    SequentialHyperparameters,
    UltraEditHyperparameters,
)
from shared.edits import SLOT, Edit
from shared.measurement import Probe, ProbeScore
from shared.reports import EditNotTaken
from shared.requests import Controls
from shared.settings import Settings
from shared.states import Cause
from shared.training_edits import unmeasured

MODIFICATION, TRACE, LOSSES = "modification.safetensors", "trace.safetensors", "trace.json"

NOT_IN_WEIGHTS = "these edits are not made in the model's weights, so that there is no model to save"

# Names a stage of the work, whose progress is then told to what the context gives.
Stage = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Assignment:
    """What is to be done.

    edits: by the index that messages name them by. unedited: records that are not carried out. given:
    hyperparameters that shall not be the defaults. contexts, statistics (a file): what is not to be made from
    the model itself. seed: of what is sampled.
    """

    editor: str
    edits: Mapping[int, Edit]
    unedited: tuple[Edit, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    contexts: Contexts | None = None
    statistics: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class AppliedEditor:
    """What came of it.

    hyperparameters: with which the editor ran. probes: of the edits, with their scores before and after.
    """

    hyperparameters: Hyperparameters
    outcome: EditOutcome
    trace: KeptTrace
    probes: Sequence[Probe]
    before: Sequence[ProbeScore]
    after: Sequence[ProbeScore]
    not_taken: Sequence[EditNotTaken]
    warnings: Sequence[str]


def check_batches(assignment: Assignment) -> None:
    """Raise BatchesDoNotFit where the edits are to be made in batches that do not cover them."""
    hyperparameters = CATALOGUE[assignment.editor].hyperparameters.model_validate(assignment.given)
    if isinstance(hyperparameters, SequentialHyperparameters):
        hyperparameters.ranges(len(assignment.edits))


def apply_editor(
    language_model: LanguageModel, assignment: Assignment, settings: Settings, stage: Stage
) -> AppliedEditor:
    """Probe, edit, probe again; the model is left as it was.

    Key statistics and hypernetworks are kept in the data directory of the settings.

    Raises:
        StepFailed: an editor cannot work with this model or these edits, which are named.
        EditFailed: it cannot work with these edits together.
        MaterialsUnusable, ProbeTooLong, OutOfGpuMemory: see there.
    """
    memory, trace = GpuMemory(), KeptTrace()
    edits = list(assignment.edits.values())
    probes = edit_probes(edits, paraphrases_trained_on=0)
    chosen = choose_hyperparameters(
        language_model, assignment.editor, assignment.given, called=assignment.editor
    )
    check_edits_fit(language_model, assignment.edits, 0, context_tokens(language_model, assignment, chosen))
    if isinstance(chosen, UltraEditHyperparameters):
        check_first_batch(language_model, edits, chosen)
    tracing = LayerTracing(language_model, traceable_facts(edits), lambda: stage("tracing facts"))
    hyperparameters = tracing.settle(assignment.editor, chosen)
    statistics = given_statistics(language_model, assignment, hyperparameters)
    with stage("probing the model as it came") as progress:
        before = score(language_model, probes, progress=progress, memory=memory)
    materials = gather_materials(
        language_model, assignment, hyperparameters, statistics, settings, stage, memory
    )
    with stage("editing") as progress, named_by_index(list(assignment.edits)):
        outcome = EDITORS[assignment.editor].edit(
            language_model,
            edits,
            hyperparameters,
            materials,
            EditingRun(progress=progress, memory=memory, trace=trace),
        )
    with (
        stage("probing the edited model") as progress,
        outcome.modification.applied(language_model) as edited,
    ):
        after = score(edited, probes, progress=progress, memory=memory)
        missed = edits_not_taken(edited, assignment.edits, probes, after, memory)
    return AppliedEditor(
        hyperparameters=hyperparameters,
        outcome=outcome,
        trace=trace,
        probes=probes,
        before=before,
        after=after,
        not_taken=missed,
        warnings=[
            *unused(assignment, hyperparameters),
            *tracing.warnings,
            *outcome.warnings,
            *memory.warnings,
        ],
    )


def context_tokens(
    language_model: LanguageModel, assignment: Assignment, hyperparameters: Hyperparameters
) -> int:
    """Tokens of the longest text that will precede a prompt."""
    if assignment.contexts is None or not isinstance(hyperparameters, ContextHyperparameters):
        return longest_context(hyperparameters)
    texts = [context.replace(SLOT, "") for context in assignment.contexts.flat]
    return max(len(language_model.tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def given_statistics(
    language_model: LanguageModel, assignment: Assignment, hyperparameters: Hyperparameters
) -> KeyStatistics | None:
    """The statistics in the file that was given, if the editor takes any."""
    if assignment.statistics is None or not isinstance(hyperparameters, KeyStatisticsHyperparameters):
        return None
    layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
    return read_statistics(assignment.statistics, language_model, layers)


def gather_materials(
    language_model: LanguageModel,
    assignment: Assignment,
    hyperparameters: Hyperparameters,
    statistics: KeyStatistics | None,
    settings: Settings,
    stage: Stage,
    memory: GpuMemory,
) -> Materials:
    """What was given, and what the editor needs besides, made from the model itself."""
    corpus = None if statistics else statistics_corpus(hyperparameters, settings)
    with (
        stage("gathering key statistics") as of_statistics,
        stage("sampling contexts") as of_contexts,
        stage("training a hypernetwork") as of_training,
    ):
        return prepare_materials(
            language_model,
            hyperparameters,
            texts=[record.text for record in corpus] if corpus else None,
            seed=assignment.seed,
            cache=settings.data_directory / "statistics",
            statistics_progress=of_statistics,
            contexts_progress=of_contexts,
            memory=memory,
            statistics=statistics,
            contexts=assignment.contexts,
            training_edits=edits_to_learn_from(assignment, hyperparameters),
            edits_to_make=len(assignment.edits),
            hypernetworks=settings.data_directory / "hypernetworks",
            training_progress=of_training,
            supplied=supplied_path(hyperparameters, settings),
        )


def edits_to_learn_from(assignment: Assignment, hyperparameters: Hyperparameters) -> list[Edit]:
    """What a hypernetwork is trained on, for the editor that has one."""
    if not isinstance(hyperparameters, MendHyperparameters):
        return []
    edits = list(assignment.edits.values())
    if hyperparameters.training == "unedited":
        return unmeasured(assignment.unedited, edits)
    return training_edits(hyperparameters, edits, Controls())


def unused(assignment: Assignment, hyperparameters: Hyperparameters) -> list[str]:
    """What to say of materials that were given to an editor which takes none."""
    given = (
        ("contexts", assignment.contexts, ContextHyperparameters),
        ("key statistics", assignment.statistics, KeyStatisticsHyperparameters),
    )
    return [
        f"{assignment.editor} uses no {name}; those that were given are not read"
        for name, value, kind in given
        if value is not None and not isinstance(hyperparameters, kind)
    ]


@contextmanager
def named_by_index(indices: Sequence[int]) -> Iterator[None]:
    """Name an edit that fails by its index in the file, of which the editor saw a part."""
    try:
        yield
    except (EditFailed, SubjectNotFound, SubjectTruncated) as error:
        if error.edit_index is None:
            raise
        failure = explain(error)
        name = f"edits.{error.edit_index}:"
        raise StepFailed(
            failure.cause, failure.reason.replace(name, f"edits.{indices[error.edit_index]}:", 1)
        ) from error


def save_modification(applied: AppliedEditor, directory: Path) -> None:
    """Write what the editor changed, as audits store it."""
    applied.outcome.modification.save(directory / MODIFICATION)


def save_edited_model(
    language_model: LanguageModel, applied: AppliedEditor, source: Path, directory: Path
) -> None:
    """Write the edited model, see `save_language_model`; raises StepFailed where the edits are no weights."""
    if not isinstance(applied.outcome.modification, WeightDelta):
        raise StepFailed(Cause.USER, NOT_IN_WEIGHTS)
    with applied.outcome.modification.applied(language_model) as edited:
        save_language_model(edited, source, directory)


def save_trace(applied: AppliedEditor, directory: Path) -> None:
    """Write the editor's intermediate results, the loss before each update and, of an editor that counts
    them, the free directions per layer as `rank`.

    `edit0` is the first edit of the assignment, whatever its index.
    """
    save_file(applied.trace.tensors, directory / TRACE)
    outcome = applied.outcome
    ranks = {"rank": outcome.free_directions} if outcome.free_directions else {}
    numbers = json.dumps({**ranks, **outcome.losses_before_updates()})
    (directory / LOSSES).write_text(numbers + "\n", encoding="utf-8")
