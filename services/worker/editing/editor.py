"""What every editor takes and gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from services.worker.editing.contexts import Contexts
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress
from services.worker.language_models.weight_delta import WeightDelta
from shared.editors import Hyperparameters
from shared.edits import Edit

H_contra = TypeVar("H_contra", bound=Hyperparameters, contravariant=True)


class EditFailed(Exception):
    """An edit that produced something not finite; `edit_index` is None when no one edit is to blame."""

    def __init__(self, reason: str, edit_index: int | None = None) -> None:
        super().__init__(reason if edit_index is None else f"edits.{edit_index}: {reason}")
        self.reason = reason
        self.edit_index = edit_index


@dataclass(frozen=True)
class EditOutcome:
    """What an editor changed, and how it went.

    edited_layers: blocks written to. losses: per edit, or one row for all edits where the editor has but
    one loss, the loss at each evaluation. ridges: by layer, what had to be added to the diagonal of a
    singular second moment.
    """

    delta: WeightDelta
    edited_layers: tuple[int, ...]
    losses: tuple[tuple[float, ...], ...]
    ridges: Mapping[int, float] = field(default_factory=dict)


class Editor(Protocol[H_contra]):
    """A method that applies edits. The model is left as it was, bit for bit: the caller adds the delta."""

    needs_statistics: bool
    needs_contexts: bool

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: H_contra,
        *,
        statistics: KeyStatistics,
        contexts: Contexts,
        progress: Progress,
        token_budget: int | None = None,
        memory: GpuMemory | None = None,
    ) -> EditOutcome:
        """Find the weight delta that makes the edits, at least one.

        statistics, contexts: empty ones do for an editor that needs none. progress: called with the work
        done and the whole; what it raises ends the edit. token_budget: most padded tokens in one forward
        pass (by default the model's own); it bounds memory and does not change the result. memory: told
        when even that did not fit.
        Raises EditFailed, SubjectNotFound, SubjectTruncated or OutOfGpuMemory.
        """
        ...
