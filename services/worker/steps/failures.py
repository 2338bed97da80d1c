"""Which failures are a step's own, and whose fault they are."""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError

from services.worker.editing.augmentation import TooFewParaphrases
from services.worker.editing.editor import EditFailed
from services.worker.editing.hypernetwork_training import TooFewTrainingEdits
from services.worker.editing.key_statistics import NotPositive
from services.worker.editing.paraphrase_sources import TooFewUsableParaphrases
from services.worker.editing.supplied_weights import SuppliedModelUnusable
from services.worker.editing.token_positions import SubjectNotFound, SubjectTruncated
from services.worker.language_models.anatomy import UnsupportedModel
from services.worker.language_models.loading import ModelNotLoadable
from services.worker.language_models.memory import OutOfGpuMemory
from services.worker.language_models.modification import ModificationMismatch
from services.worker.language_models.text_endpoint import EndpointRefused
from services.worker.probing.scoring import ProbeTooLong
from services.worker.stressing.footprint import StressFailed
from services.worker.tuning.errors import RecipeDoesNotFit, TooFewGpus, TrainingDiverged
from shared.artifacts import ArtifactCorrupt, ArtifactStoreUnavailable
from shared.editors import BatchesDoNotFit
from shared.model_files import HubUnavailable, ModelNotUsable
from shared.patience import is_away
from shared.states import Cause
from shared.training_data import SourceUnavailable, UnusableTrainingData

PASSING_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETUNREACH}
)
AWAY = (ArtifactStoreUnavailable, HubUnavailable, SourceUnavailable)


class StepFailed(Exception):
    """A step cannot give its result; the rest of the audit goes on without it."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason


class InputDamaged(Exception):
    """What step `step_id` left behind is missing or altered; it must be computed again."""

    def __init__(self, step_id: str, reason: str) -> None:
        super().__init__(reason)
        self.step_id = step_id
        self.reason = reason


CAUSES: dict[Cause, tuple[type[Exception], ...]] = {
    Cause.USER: (
        BatchesDoNotFit,
        ModelNotLoadable,
        ModelNotUsable,
        ProbeTooLong,
        RecipeDoesNotFit,
        StressFailed,
        SubjectNotFound,
        SubjectTruncated,
        SuppliedModelUnusable,
        TooFewParaphrases,
        TooFewTrainingEdits,
        UnsupportedModel,
        UnusableTrainingData,
    ),
    Cause.MODEL: (EditFailed, NotPositive, TooFewUsableParaphrases, TrainingDiverged),
    Cause.INFRASTRUCTURE: (
        ArtifactCorrupt,
        EndpointRefused,
        ModificationMismatch,
        MemoryError,
        OutOfGpuMemory,
        TooFewGpus,
    ),
}


def explain(error: Exception) -> StepFailed:
    """Classify what a step raised; what is not foreseen is our own fault, not the user's."""
    if isinstance(error, StepFailed):
        return error
    for cause, kinds in CAUSES.items():
        if isinstance(error, kinds):
            return StepFailed(cause, str(error))
    if isinstance(error, DBAPIError):  # its text holds the statement
        return StepFailed(Cause.INFRASTRUCTURE, f"the database failed ({type(error.orig).__name__})")
    return StepFailed(
        Cause.INFRASTRUCTURE, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    )


def is_passing(error: BaseException) -> bool:
    """Whether an error says that the surroundings are away or full: later the same step may succeed.

    So does one that was raised from such an error, whatever it is called: "the model cannot be loaded".
    """
    if isinstance(error, (*AWAY, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno in PASSING_ERRNOS:
        return True
    if isinstance(error, DBAPIError) and is_away(error):
        return True
    return error.__cause__ is not None and is_passing(error.__cause__)


def is_foreseen(error: Exception) -> bool:
    """Whether an error is one that steps are known to fail with, and clean up after."""
    return isinstance(error, (StepFailed, *(kind for kinds in CAUSES.values() for kind in kinds)))
