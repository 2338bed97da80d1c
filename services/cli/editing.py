"""Applies an editor on this machine, without the service; needs what a worker needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from services.cli.consoles import message_console
from services.cli.edit_files import UnusableOutput, new_directory
from services.cli.edit_results import EditResult, Scored, compare, kept
from services.cli.errors import HoldfastError
from services.cli.stages import Stage, stages
from services.worker.editing.given_materials import MaterialsUnusable, read_contexts
from services.worker.language_models.loading import Dtype, LanguageModel
from services.worker.steps.failures import explain, is_foreseen
from services.worker.steps.model_source import choose_device, load_audited_model, source_directory
from services.worker.steps.standalone import (
    AppliedEditor,
    Assignment,
    apply_editor,
    check_batches,
    save_edited_model,
    save_modification,
    save_trace,
)
from shared.editors import CATALOGUE, KeyStatisticsHyperparameters
from shared.edits import Edit
from shared.measurement import Mode, ProbeKind
from shared.model_references import inspect_model, parse_model_reference
from shared.settings import Settings

REFERENCE_KINDS = ("builtin", "hf", "local")
ANYWHERE = Path("/")  # who runs the command may use every file that they can read


@dataclass(frozen=True)
class Order:
    """What `holdfast edit` was told to do; see its options."""

    model: str
    editor: str
    edits: Mapping[int, Edit]
    unedited: tuple[Edit, ...]
    hyperparameters: Mapping[str, Any]
    contexts: Path | None
    statistics: Path | None
    seed: int
    dtype: Dtype
    device: str | None
    data: Path | None
    out: Path
    delta_only: bool
    trace: bool


def edit_model(order: Order) -> EditResult:
    """Load a model, edit it, and write it, or what was changed, into a new directory.

    Raises:
        HoldfastError: the model, the edits or the files cannot be used, or nothing can be written.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    settings = local_settings(order)
    try_data_directory(order, settings)
    with plain_errors(), new_directory(order.out) as directory, stages(message_console()) as stage:
        assignment = Assignment(
            order.editor,
            order.edits,
            order.unedited,
            order.hyperparameters,
            contexts=read_contexts(order.contexts) if order.contexts else None,
            statistics=order.statistics,
            seed=order.seed,
        )
        check_batches(assignment)
        language_model, source = load(order, settings, stage)
        applied = apply_editor(language_model, assignment, settings, stage)
        with stage("saving") as told, disk_errors(order.out):
            told(0, 1)
            if order.delta_only:
                save_modification(applied, directory)
            else:
                save_edited_model(language_model, applied, source, directory)
            if order.trace:
                save_trace(applied, directory)
    return result_of(language_model, assignment, applied)


def local_settings(order: Order) -> Settings:
    """The environment's settings, for work on one's own machine."""
    settings = Settings()
    device = choose_device(order.device or settings.device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch says so either way
        raise HoldfastError(f"Cannot use the device '{device}'", str(error).splitlines()[0]) from error
    roots = (Path.cwd(), ANYWHERE)
    chosen: dict[str, Any] = {"model_roots": roots, "data_roots": roots, "device": device}
    if order.data:
        chosen["data_directory"] = order.data.expanduser().resolve()
    return settings.model_copy(update=chosen)


def try_data_directory(order: Order, settings: Settings) -> None:
    """Make the directory that key statistics will be kept in, before they have taken their time.

    Raises:
        UnusableOutput: nothing can be written there.
    """
    takes_statistics = issubclass(CATALOGUE[order.editor].hyperparameters, KeyStatisticsHyperparameters)
    if not order.data and (order.statistics or not takes_statistics):
        return
    directory = settings.data_directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UnusableOutput(
            f"Cannot write to {directory}",
            error.strerror or str(error),
            hint="Name a directory for what is computed once with --data.",
        ) from error


def load(order: Order, settings: Settings, stage: Stage) -> tuple[LanguageModel, Path]:
    """The model, and the directory that it was loaded from."""
    reference = full_reference(order.model)
    with stage("loading the model") as told:
        told(0, 1)
        revision = inspect_model(parse_model_reference(reference), settings).revision
        language_model = load_audited_model(reference, revision, order.dtype, settings)
    return language_model, source_directory(reference, revision, settings)


def full_reference(model: str) -> str:
    """A model reference as audits name it; a plain path is one too."""
    kind, _, rest = model.partition(":")
    if kind in REFERENCE_KINDS and kind != "local":
        return model
    path = Path(rest if kind == "local" else model).expanduser()
    return f"local:{path.absolute()}"


def result_of(language_model: LanguageModel, assignment: Assignment, applied: AppliedEditor) -> EditResult:
    """What the command shows."""
    scored = [Scored(*row) for row in zip(applied.probes, applied.before, applied.after, strict=True)]
    return EditResult(
        model=language_model.reference,
        model_revision=language_model.revision,
        dtype=str(language_model.dtype).removeprefix("torch."),
        editor=assignment.editor,
        hyperparameters=applied.hyperparameters.model_dump(mode="json"),
        edited_layers=list(applied.outcome.edited_layers),
        edits=len(assignment.edits),
        exact=compare(scored, ProbeKind.REWRITE),
        first_token=compare(scored, ProbeKind.REWRITE, Mode.FIRST_TOKEN),
        paraphrases=compare(scored, ProbeKind.PARAPHRASE),
        neighborhood=compare(scored, ProbeKind.NEIGHBORHOOD),
        neighborhood_kept=kept(scored),
        not_taken=list(applied.not_taken),
        warnings=list(applied.warnings),
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say in plain words what a worker would record of its failure."""
    try:
        yield
    except MaterialsUnusable as error:
        raise HoldfastError("The materials cannot be used", str(error)) from error
    except torch.OutOfMemoryError as error:
        raise HoldfastError("The model does not fit into the memory of the device", str(error)) from error
    except Exception as error:
        if not is_foreseen(error):
            raise
        raise HoldfastError("The edits cannot be made", explain(error).reason) from error


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Say where it was that writing failed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnusableOutput(f"Cannot write to {out}", reason or str(error)) from error
