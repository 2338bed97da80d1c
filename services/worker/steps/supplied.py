"""Finding a model that was edited elsewhere, and what was edited in it, before an audit is laid out."""

from __future__ import annotations

import hashlib
from pathlib import Path

from services.worker.editing.supplied import Changes, find_changes, supplied_modification
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.progress import Progress, untold
from services.worker.steps.failures import StepFailed
from services.worker.steps.model_source import source_directory
from shared.editors import Hyperparameters, SuppliedHyperparameters
from shared.model_references import (
    HubModel,
    content_revision,
    inspect_model,
    local_file,
    parse_model_reference,
)
from shared.settings import Settings
from shared.states import Cause


def settle_supplied(
    language_model: LanguageModel,
    hyperparameters: SuppliedHyperparameters,
    settings: Settings,
    progress: Progress = untold,
) -> SuppliedHyperparameters:
    """The hyperparameters with the revision of what was supplied, and with the blocks that were edited.

    The blocks are those given, else those whose weights differ, which are compared tensor by tensor.

    Raises:
        ModelNotUsable, SuppliedModelUnusable: what is wrong with it.
        StepFailed: it is not of the revision that was asked for.
    """
    path, revision = supplied_source(hyperparameters, settings)
    if hyperparameters.delta is not None:
        found = Changes.of_modification(language_model.anatomy, supplied_modification(language_model, path))
    else:
        found = find_changes(language_model, path, progress)
    layers = hyperparameters.layers or found.layers or None
    return hyperparameters.model_copy(update={"revision": revision, "layers": layers})


def supplied_path(hyperparameters: Hyperparameters, settings: Settings) -> Path | None:
    """Where the supplied model is, for the editor that needs one; raises as `settle_supplied`."""
    if not isinstance(hyperparameters, SuppliedHyperparameters):
        return None
    path, _ = supplied_source(hyperparameters, settings)
    return path


def supplied_source(hyperparameters: SuppliedHyperparameters, settings: Settings) -> tuple[Path, str]:
    """The directory or file that was supplied, and its revision, which is that asked for where one is."""
    wanted = hyperparameters.revision
    if hyperparameters.delta is not None:
        source = hyperparameters.delta
        path = local_file(source, settings)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        source = str(hyperparameters.checkpoint)
        reference = parse_model_reference(source)
        if isinstance(reference, HubModel):
            commit = wanted or inspect_model(reference, settings).revision
            return source_directory(source, commit, settings), str(commit)
        path = source_directory(source, None, settings)
        found = content_revision(path)
    if wanted not in (None, found):
        raise StepFailed(Cause.USER, f"{source} is not of the revision {wanted} any more, but of {found}")
    return path, found
