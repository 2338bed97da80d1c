"""The `base` arm: scores every probe on the model as it came, and chooses the control facts."""

from __future__ import annotations

from services.worker.language_models.memory import GpuMemory
from services.worker.probing.control_facts import choose_controls, control_candidates
from services.worker.probing.probes import control_probes
from services.worker.probing.scoring import score
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.environment import environment
from services.worker.steps.measured import fluency_record, in_every_mode, probes_of_edits
from services.worker.steps.progress import progress_of_part
from shared.measurement import Arm, ProbeKind
from shared.tables import Step


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Probe edits and control candidates; keep as controls what the base model answers right."""
    request, memory = context.request, GpuMemory()
    probes = probes_of_edits(request)
    candidates = control_candidates(request.edits, request.controls.facts, request.controls.unedited)
    scored = score(
        context.language_model,
        probes + control_probes(candidates),
        progress=progress_of_part(context, step, "probe {done} of {whole}"),
        memory=memory,
    )
    scores, candidate_scores = scored[: len(probes)], scored[len(probes) :]
    controls = choose_controls(candidates, candidate_scores, request.edits, request.controls.maximum)
    asked = probes + control_probes(controls, request.probing.kinds)
    found = dict(zip(probes, scores, strict=True))
    control_scores = dict(zip(candidates, candidate_scores, strict=True))
    found |= zip(control_probes(controls), (control_scores[fact] for fact in controls), strict=True)
    variants = [probe for probe in asked if probe not in found]
    found |= zip(variants, score(context.language_model, variants, memory=memory), strict=True)
    answers = in_every_mode(
        context.language_model, asked, [found[probe] for probe in asked], request.probing, memory
    )
    fluency = fluency_record(request, context.language_model, memory)
    known = sum(
        answer.exact
        for probe, answer in zip(probes, scores, strict=True)
        if probe.probe_kind is ProbeKind.REWRITE
    )
    warnings = [f"{step.title}: {warning}" for warning in memory.warnings]
    if not controls:
        warnings.append("the base model answers no control candidate right, so there is nothing to compare")
    if known:
        warnings.append(f"{known} of {len(request.edits)} edits ask for what the base model already answers")
    return StepOutcome(
        record={
            "controls": [fact.model_dump(mode="json") for fact in controls],
            "control_candidates": len(candidates),
            "fluency": fluency,
            "warnings": warnings,
            "environment": environment(context.language_model),
        },
        arms=[ArmScores(Arm.BASE, 0, asked, answers)],
    )
