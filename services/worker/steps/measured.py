"""Which probes an audit runs at every arm: those of its edits, and those of the controls that base chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress
from services.worker.probing.containing import with_contains
from services.worker.probing.control_facts import true_facts
from services.worker.probing.fluency import MOST_PROMPTS, measure_fluency, plain_texts, spread
from services.worker.probing.probes import control_probes, edit_probes
from services.worker.probing.scoring import score
from services.worker.steps.content_keys import content_key
from services.worker.steps.context import AuditContext
from shared.edits import ControlFact
from shared.measurement import Arm, Probe, ProbeScore
from shared.probing import Probing
from shared.reports import FluencySample
from shared.requests import AuditRequest
from shared.states import StepKind
from shared.tables import Step


def held_back_paraphrases(request: AuditRequest) -> int:
    """Paraphrases that some editor of the audit trains on; none of them is probed in any trial."""
    return max(editor.own_paraphrases for editor in request.editors)


def probing_identity(probing: Probing) -> dict[str, Any]:
    """All that the answers to an audit's probes depend on beside its facts: what is to be read, too.

    The plain texts are those of the packages that are installed, which no part of the request tells.
    """
    texts = {"plain_texts": content_key(texts=plain_texts())} if probing.fluency else {}
    return {**probing.model_dump(mode="json"), **texts}


def chosen_controls(context: AuditContext) -> list[ControlFact]:
    """The control facts that the base step settled on."""
    base = next(step for step in context.steps() if step.kind is StepKind.BASE)
    assert base.outcome is not None  # noqa: S101 (every later step needs base to have succeeded)
    return [ControlFact.model_validate(fact) for fact in base.outcome["controls"]]


def probes_of_edits(request: AuditRequest) -> list[Probe]:
    """What is asked of the request's edits, in a fixed order."""
    controls = request.controls
    facts = [*controls.facts, *true_facts(controls.unedited)]
    return edit_probes(request.edits, held_back_paraphrases(request), request.probing.kinds, facts)


def measured_probes(context: AuditContext) -> list[Probe]:
    """Every probe of the audit, in a fixed order."""
    controls = control_probes(chosen_controls(context), context.request.probing.kinds)
    return probes_of_edits(context.request) + controls


def score_fully(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    probing: Probing,
    *,
    progress: Progress,
    memory: GpuMemory,
) -> list[ProbeScore]:
    """Score probes as at the end of an arm, in every mode that the request wants."""
    return in_every_mode(
        language_model,
        probes,
        score(language_model, probes, progress=progress, memory=memory),
        probing,
        memory,
    )


def fluency_record(
    request: AuditRequest, language_model: LanguageModel, memory: GpuMemory
) -> dict[str, Any] | None:
    """How the model writes after the edits' prompts and reads plain English; None where nobody asked."""
    if not request.probing.fluency:
        return None
    prompts = spread([edit.full_prompt for edit in request.edits], MOST_PROMPTS)
    return measure_fluency(language_model, prompts, plain_texts(), memory).model_dump()


def recorded_fluency(steps: Mapping[Arm, Step | None]) -> dict[Arm, FluencySample]:
    """What the steps that lead to each arm recorded of the model's writing."""
    recorded = {arm: (step.outcome or {}).get("fluency") for arm, step in steps.items() if step}
    return {arm: FluencySample.model_validate(sample) for arm, sample in recorded.items() if sample}


def in_every_mode(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    scores: Sequence[ProbeScore],
    probing: Probing,
    memory: GpuMemory,
) -> list[ProbeScore]:
    """Scores with the modes for which a model must write something by itself."""
    if probing.contains_tokens is None:
        return list(scores)
    return with_contains(language_model, probes, scores, probing.contains_tokens, memory=memory)
