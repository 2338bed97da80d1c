"""Paraphrases that edits are augmented with and that the request does not bring: having them written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from services.worker.editing.paraphrase_sources import ParaphraseSource, Templates, paraphrase_edits
from services.worker.editing.written_paraphrases import WrittenElsewhere, WrittenHere
from services.worker.language_models.memory import GpuMemory, free_gpu_memory
from services.worker.language_models.text_endpoint import TextEndpoint
from services.worker.language_models.text_writer import load_text_writer
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed
from services.worker.steps.model_source import choose_device, writer_directory
from services.worker.steps.preparation import Need, prepared
from services.worker.steps.progress import progress_of_part
from services.worker.steps.storing import fetched, store_patiently
from shared.editors import Hyperparameters
from shared.edits import Edit
from shared.model_references import HubModel, content_revision, parse_model_reference
from shared.paraphrases import ENDPOINT, MODEL_PREFIX, OWN
from shared.preparations import Preparation
from shared.requests import EditorChoice
from shared.settings import Settings
from shared.states import Cause
from shared.tables import Step

WRITING_SEED = 0


def need(
    context: AuditContext, choice: EditorChoice, paraphrases: int, _hyperparameters: Hyperparameters
) -> Need | None:
    """As many paraphrases as any edit of this choice trains on; those with fewer take the first ones."""
    source = choice.paraphrase_source
    if source == OWN or paraphrases == 0:
        return None
    inputs = {
        "source": source,
        "writer": identity(source, context.settings),
        "count": max(choice.paraphrases),
        "edits": context.edit_set.content_hash,
    }
    return Need(Preparation.PARAPHRASES, source, inputs)


def identity(source: str, settings: Settings) -> str | None:
    """What, beside its name, tells a source from others; None where the name says all.

    Raises:
        StepFailed: there is no endpoint (any more).
        ModelNotUsable: what is wrong with the model.
    """
    if source == ENDPOINT:
        return endpoint(settings).model
    if source.startswith(MODEL_PREFIX):
        reference = parse_model_reference(source.removeprefix(MODEL_PREFIX))
        if not isinstance(reference, HubModel):  # whose commit is a part of its name since the submission
            return content_revision(writer_directory(reference, settings))
    return None


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Have the paraphrases written, and store them."""
    source, count, memory = step.inputs["source"], step.inputs["count"], GpuMemory()
    progress = progress_of_part(context, step, "paraphrased {done} of {whole} edits")
    if identity(source, context.settings) != step.inputs["writer"]:
        raise StepFailed(Cause.USER, f"{source} changed since the audit began")
    with opened(source, context.settings, memory) as writing:
        written = paraphrase_edits(writing, context.request.edits, count, progress)
    content = json.dumps({"source": source, "paraphrases": written}, ensure_ascii=False).encode()
    artifact = store_patiently(context, step, lambda: context.store.put(content, ".json"))
    return StepOutcome(
        record={
            "paraphrases": count * len(written),
            "examples": list(written[0]),
            "warnings": [f"{step.title}: {warning}" for warning in memory.warnings],
            "environment": environment(context.language_model),
        },
        artifact=artifact,
    )


@contextmanager
def opened(source: str, settings: Settings, memory: GpuMemory) -> Iterator[ParaphraseSource]:
    """The source, its model loaded while the context lasts."""
    if source == ENDPOINT:
        found = endpoint(settings)
        yield WrittenElsewhere(f"the model {found.model}", found.answer, WRITING_SEED)
    elif source.startswith(MODEL_PREFIX):
        reference = parse_model_reference(source.removeprefix(MODEL_PREFIX))
        directory, device = writer_directory(reference, settings), choose_device(settings.device)
        try:
            writer = load_text_writer(directory, reference=str(reference), device=device)
            yield WrittenHere(source, writer, WRITING_SEED, memory)
        finally:
            free_gpu_memory()
    else:
        yield Templates()


def endpoint(settings: Settings) -> TextEndpoint:
    """The endpoint that the operator has configured; raises StepFailed where there is none."""
    if settings.paraphrase_url is None:
        raise StepFailed(Cause.USER, "no endpoint that writes paraphrases is configured here")
    return TextEndpoint(
        settings.paraphrase_url,
        settings.paraphrase_model,
        settings.paraphrase_key,
        settings.paraphrase_timeout_seconds,
        settings.paraphrase_retries,
    )


def edits_to_make(context: AuditContext, step: Step) -> list[Edit]:
    """The request's edits, with the paraphrases that were written for an edit step instead of their own.

    Raises:
        InputDamaged: what was written is missing, truncated or altered.
    """
    edits = list(context.request.edits)
    made = prepared(context, step, Preparation.PARAPHRASES)
    if made is None:
        return edits
    with fetched(context, made.id) as path:
        written = json.loads(path.read_text(encoding="utf-8"))["paraphrases"]
    return [
        edit.model_copy(update={"paraphrases": tuple(of_edit)})
        for edit, of_edit in zip(edits, written, strict=True)
    ]
