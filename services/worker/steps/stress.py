"""One stressor upon the base or an edited model: the arms `base→stressed` and `edited→stressed`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.modification import Modification
from services.worker.probing.probes import edit_probes
from services.worker.probing.scoring import score
from services.worker.steps.context import ArmScores, AuditContext, StepOutcome
from services.worker.steps.edit import EDITING_DONE, stored_modification
from services.worker.steps.environment import environment
from services.worker.steps.failures import StepFailed
from services.worker.steps.further_edits import further_edited
from services.worker.steps.measured import chosen_controls, fluency_record, measured_probes, score_fully
from services.worker.steps.progress import progress_of_part
from services.worker.stressing.apply import stressed
from services.worker.stressing.footprint import Footprint
from shared.adapters import adapter_directory, adapter_revision
from shared.edits import Edit
from shared.further_edits import changed_controls, superseded
from shared.measurement import Arm, ProbeKind
from shared.states import Cause
from shared.stressors import FurtherEdits, LoraMerge, Stressor
from shared.tables import Step

STRESSORS: TypeAdapter[Stressor] = TypeAdapter(Stressor)


@dataclass(frozen=True)
class UnderStress:
    """A model under its stressor, and what the step's record is to say of that."""

    language_model: LanguageModel
    record: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Stress the base or an edited model in place, and probe it."""
    memory = GpuMemory()
    edited = step.inputs["edit_step"] is not None
    modification = stored_modification(context, step.inputs["edit_step"]) if edited else None
    probes = measured_probes(context)
    with under_stress(context, step, modification, memory) as stress:
        scores = score_fully(
            stress.language_model,
            probes,
            context.request.probing,
            progress=progress_of_part(context, step, "probe {done} of {whole}", start=EDITING_DONE),
            memory=memory,
        )
        fluency = fluency_record(context.request, stress.language_model, memory)
    warnings = [*stress.warnings, *memory.warnings]
    return StepOutcome(
        record={
            **stress.record,
            "fluency": fluency,
            "warnings": [f"{step.title}: {warning}" for warning in warnings],
            "environment": environment(context.language_model),
        },
        arms=[ArmScores(Arm.EDITED_STRESSED if edited else Arm.BASE_STRESSED, 0, probes, scores)],
    )


@contextmanager
def under_stress(
    context: AuditContext, step: Step, modification: Modification | None, memory: GpuMemory
) -> Iterator[UnderStress]:
    """The step's model under its stressor while the context lasts; the base is given back bit for bit."""
    stressor = STRESSORS.validate_python(step.inputs["settings"])
    if isinstance(stressor, FurtherEdits):
        with further_edited(context, step, modification, stressor, memory) as further:
            record = record_of_edits(context, further.language_model, further.edits, memory)
            yield UnderStress(further.language_model, record, list(further.warnings))
        return
    adapter = planned_adapter(context, step, stressor) if isinstance(stressor, LoraMerge) else None
    with stressed(context.language_model, modification, stressor, adapter) as moved:
        warnings = [] if moved.footprint.changed or modification is None else ["the stressor changes nothing"]
        yield UnderStress(moved.language_model, record_of_weights(moved.footprint), warnings)


def record_of_weights(footprint: Footprint) -> dict[str, Any]:
    """How far the weights were moved."""
    return {
        "footprint": {
            "weights": footprint.weights,
            "changed_share": footprint.changed_share,
            "distance": footprint.distance,
        }
    }


def record_of_edits(
    context: AuditContext, language_model: LanguageModel, edits: list[Edit], memory: GpuMemory
) -> dict[str, Any]:
    """How many further edits took, and the facts of the audit that they were meant, or free, to change."""
    probes = edit_probes(edits, paraphrases_trained_on=0, kinds=(ProbeKind.REWRITE,))
    scores = score(language_model, probes, memory=memory)
    overwritten = superseded(edits, context.request.edits)
    return {
        "further_edits": {"made": len(edits), "taken": sum(answer.exact for answer in scores)},
        "superseded": [f"edit:{index}" for index in overwritten],
        "left_out": [f"control:{index}" for index in changed_controls(edits, chosen_controls(context))],
    }


def planned_adapter(context: AuditContext, step: Step, stressor: LoraMerge) -> Path:
    """The adapter's directory; raises StepFailed unless it is what the step's key was made from."""
    directory = adapter_directory(stressor.adapter, context.settings)
    if adapter_revision(directory) != step.inputs["adapter"]:
        raise StepFailed(Cause.USER, f"{stressor.adapter} changed since the audit began")
    return directory
