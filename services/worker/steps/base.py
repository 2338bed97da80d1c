"""The `base` arm: scores every probe on the model as it came, and chooses the control facts."""

from __future__ import annotations

from services.worker.probing.control_facts import choose_controls, control_candidates
from services.worker.probing.probes import control_probes, edit_probes
from services.worker.probing.scoring import score
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.measured import held_back_paraphrases
from shared.measurement import Arm, ProbeKind
from shared.tables import Step


def run(context: AuditContext, _step: Step) -> StepOutcome:
    """Probe edits and control candidates; keep as controls what the base model answers right."""
    request = context.request
    probes = edit_probes(request.edits, held_back_paraphrases(request))
    scores = score(context.language_model, probes)
    candidates = control_candidates(request.edits, request.controls.facts, request.controls.unedited)
    candidate_scores = score(context.language_model, control_probes(candidates))
    controls = choose_controls(candidates, candidate_scores, request.edits, request.controls.maximum)
    control_scores = dict(zip(candidates, candidate_scores, strict=True))
    known = sum(
        answer.exact
        for probe, answer in zip(probes, scores, strict=True)
        if probe.probe_kind is ProbeKind.REWRITE
    )
    warnings = []
    if not controls:
        warnings.append("the base model answers no control candidate right, so there is nothing to compare")
    if known:
        warnings.append(f"{known} of {len(request.edits)} edits ask for what the base model already answers")
    return StepOutcome(
        record={
            "controls": [fact.model_dump(mode="json") for fact in controls],
            "control_candidates": len(candidates),
            "warnings": warnings,
        },
        arms=[
            ArmScores(
                Arm.BASE,
                0,
                probes + control_probes(controls),
                scores + [control_scores[fact] for fact in controls],
            )
        ],
    )
