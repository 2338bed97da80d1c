"""From a model reference to the model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from services.worker import almanac
from services.worker.language_models.loading import Dtype, LanguageModel, load_language_model
from services.worker.language_models.memory import free_gpu_memory
from services.worker.steps.failures import StepFailed
from shared.model_files import content_revision
from shared.model_references import HubModel, ModelReference, model_directory, parse_model_reference
from shared.settings import Settings
from shared.states import Cause

BUILTIN_DIRECTORIES = {"almanac": almanac.MODEL_DIRECTORY}


@dataclass
class ModelKeeper:
    """Keeps the model that was loaded last: steps leave it bit for bit as they found it."""

    _key: tuple[str, str | None, Dtype] | None = None
    _model: LanguageModel | None = None

    def model(self, reference: str, revision: str | None, dtype: Dtype, settings: Settings) -> LanguageModel:
        """The model, loaded only when it is another than the last one; raises as `load_audited_model`.

        A revision that is not pinned yet may name other content than it did before.
        """
        key = (reference, revision, dtype)
        if self._model is None or self._key != key or revision is None:
            self._model = None
            free_gpu_memory()
            self._model = load_audited_model(reference, revision, dtype, settings)
            self._key = key
        return self._model


def load_audited_model(
    reference: str, revision: str | None, dtype: Dtype, settings: Settings
) -> LanguageModel:
    """Load the model under audit in the dtype asked for, on the worker's device.

    Raises:
        ModelNotUsable, ModelNotLoadable, UnsupportedModel: what is wrong with it.
        StepFailed: its content is not what an earlier attempt saw, or its weights are not finite.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    directory = source_directory(reference, revision, settings)
    found = pinned_revision(directory, reference, revision)
    language_model = load_language_model(
        directory,
        reference=reference,
        revision=found,
        dtype=dtype,
        device=choose_device(settings.device),
    )
    for name, parameter in language_model.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise StepFailed(Cause.USER, f"the model's weights are not finite: {name}")
    return language_model


def source_directory(reference: str, revision: str | None, settings: Settings) -> Path:
    """The directory that a model is loaded from; raises ModelNotUsable."""
    return model_directory(
        parse_model_reference(reference), revision, settings, builtin_directories=BUILTIN_DIRECTORIES
    )


def writer_directory(reference: ModelReference, settings: Settings) -> Path:
    """The directory of a model that only writes, a hub's at its pinned commit; raises ModelNotUsable."""
    return model_directory(
        reference,
        reference.revision if isinstance(reference, HubModel) else None,
        settings,
        builtin_directories=BUILTIN_DIRECTORIES,
        only_writes=True,
    )


def pinned_revision(directory: Path, reference: str, revision: str | None) -> str:
    """The hub's commit, or a hash over the files; a directory that changed meanwhile is refused."""
    if reference.startswith("hf:") and revision is not None:
        return revision
    found = content_revision(directory)
    if revision is not None and found != revision:
        raise StepFailed(Cause.USER, f"{reference} changed since the audit began")
    return found


def choose_device(setting: str) -> str:
    """`auto` is the first CUDA device where there is one."""
    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"
