"""Which probes an audit runs at every arm: those of its edits, and those of the controls that base chose."""

from __future__ import annotations

from services.worker.probing.probes import control_probes, edit_probes
from services.worker.steps.context import AuditContext
from shared.edits import ControlFact
from shared.measurement import Probe
from shared.requests import AuditRequest
from shared.states import StepKind


def held_back_paraphrases(request: AuditRequest) -> int:
    """Paraphrases that some editor of the audit trains on; none of them is probed in any trial."""
    return max(count for editor in request.editors for count in editor.paraphrases)


def chosen_controls(context: AuditContext) -> list[ControlFact]:
    """The control facts that the base step settled on."""
    base = next(step for step in context.steps() if step.kind is StepKind.BASE)
    assert base.outcome is not None  # noqa: S101 (every later step needs base to have succeeded)
    return [ControlFact.model_validate(fact) for fact in base.outcome["controls"]]


def measured_probes(context: AuditContext) -> list[Probe]:
    """Every probe of the audit, in a fixed order."""
    edits = edit_probes(context.request.edits, held_back_paraphrases(context.request))
    return edits + control_probes(chosen_controls(context))
