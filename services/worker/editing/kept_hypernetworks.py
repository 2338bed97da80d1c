"""Hypernetworks kept in a directory, so that the same one is not trained twice."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from services.worker.editing.hypernetwork import Hypernetwork, load_hypernetwork
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import ModificationMismatch
from shared.editors import MendHyperparameters
from shared.edits import Edit

log = logging.getLogger(__name__)


def kept_or_trained(directory: Path, training: str, train: Callable[[], Hypernetwork]) -> Hypernetwork:
    """The hypernetwork of this training (see `training_key`), trained and kept where there is none yet.

    One that a crash of the machine left damaged is trained again.
    """
    path = directory / f"{training}.safetensors"
    if path.exists():
        try:
            return load_hypernetwork(path)
        except ModificationMismatch as error:
            log.warning("%s is damaged and is trained again: %s", path, error)
    trained = train()
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory, suffix=".part")
    os.close(descriptor)
    try:
        trained.save(Path(temporary))
        Path(temporary).replace(path)  # a reader sees all of it or nothing
    finally:
        Path(temporary).unlink(missing_ok=True)
    return trained


def training_key(
    language_model: LanguageModel,
    edits: Sequence[Edit],
    hyperparameters: MendHyperparameters,
    edits_to_make: int,
) -> str:
    """Hex SHA-256 of all that a training follows from."""
    parts = {
        "model": language_model.revision,
        "dtype": str(language_model.dtype),
        "device": language_model.device.type,
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "edits": [edit.model_dump(mode="json") for edit in edits],
        "edits_at_once": hyperparameters.group_size(edits_to_make),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
