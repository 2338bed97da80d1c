"""Which failures are a step's own, and whose fault they are."""

from __future__ import annotations

from services.worker.editing.errors import EditFailed
from services.worker.language_models.anatomy import UnsupportedModel
from services.worker.language_models.loading import ModelNotLoadable
from services.worker.language_models.weight_delta import DeltaMismatch
from services.worker.tuning.run import TrainingDiverged
from shared.artifacts import ArtifactCorrupt
from shared.model_references import ModelNotUsable
from shared.states import Cause
from shared.training_data import UnusableTrainingData


class StepFailed(Exception):
    """A step cannot give its result; the rest of the audit goes on without it."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason


CAUSES: tuple[tuple[type[Exception], Cause], ...] = (
    (EditFailed, Cause.MODEL),
    (TrainingDiverged, Cause.MODEL),
    (UnsupportedModel, Cause.USER),
    (ModelNotLoadable, Cause.USER),
    (ModelNotUsable, Cause.USER),
    (UnusableTrainingData, Cause.USER),
    (DeltaMismatch, Cause.INFRASTRUCTURE),
    (ArtifactCorrupt, Cause.INFRASTRUCTURE),
    (MemoryError, Cause.INFRASTRUCTURE),
)


def explain(error: Exception) -> StepFailed:
    """Classify what a step raised; what is not foreseen is our own fault, not the user's."""
    if isinstance(error, StepFailed):
        return error
    for kind, cause in CAUSES:
        if isinstance(error, kind):
            return StepFailed(cause, str(error))
    return StepFailed(Cause.INFRASTRUCTURE, f"{type(error).__name__}: {error}")
