"""What every editor takes and gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from services.worker.editing.contexts import BARE_PROMPT, Contexts
from services.worker.editing.hypernetwork import Hypernetwork
from services.worker.editing.key_statistics import NO_STATISTICS, KeyStatistics
from services.worker.editing.trace import Trace
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.modification import Modification
from services.worker.language_models.progress import Progress, untold
from shared.editors import Hyperparameters
from shared.edits import Edit

H_contra = TypeVar("H_contra", bound=Hyperparameters, contravariant=True)


class EditFailed(Exception):
    """An edit that cannot be made; `reason` says why, `edit_index` is None when no one edit is to blame."""

    def __init__(self, reason: str, edit_index: int | None = None) -> None:
        super().__init__(reason if edit_index is None else f"edits.{edit_index}: {reason}")
        self.reason = reason
        self.edit_index = edit_index


@dataclass(frozen=True)
class EditOutcome:
    """What an editor changed, and how it went.

    edited_layers: blocks written to. losses: per edit, the loss at each evaluation, all but the last of which
    were followed by an update; with `shared_loss` one row for all edits, each followed by an update. ridges:
    by layer, what had to be added to the diagonal of a singular second moment. free_directions: by layer, how
    many directions of the keys an editor that spares the others may write to.
    """

    modification: Modification
    edited_layers: tuple[int, ...]
    losses: tuple[tuple[float, ...], ...]
    ridges: Mapping[int, float] = field(default_factory=dict)
    free_directions: Mapping[int, int] = field(default_factory=dict)
    shared_loss: bool = False
    warnings: tuple[str, ...] = ()

    def losses_before_updates(self) -> dict[str, list[float]]:
        """The losses that were followed by an update: `edit{i}` per edit, or `losses` where all share one."""
        if self.shared_loss:
            return {"losses": list(self.losses[0])}
        return {f"edit{index}": list(losses[:-1]) for index, losses in enumerate(self.losses)}


@dataclass(frozen=True)
class Materials:
    """What an editor may need beside the model and the edits; each takes what it needs.

    supplied: the directory, or the stored modification, of a model that was edited elsewhere.
    """

    statistics: KeyStatistics = NO_STATISTICS
    contexts: Contexts = BARE_PROMPT
    hypernetwork: Hypernetwork | None = None
    supplied: Path | None = None


@dataclass(frozen=True)
class EditingRun:
    """How editing is carried out; none of it changes the result.

    progress: called with the work done and the whole; what it raises ends the edit. token_budget: most
    padded tokens in one forward pass (by default the model's own); it bounds memory. memory: told when
    even that did not fit. trace: keeps intermediate results where somebody wants them.
    """

    progress: Progress = untold
    token_budget: int | None = None
    memory: GpuMemory = field(default_factory=GpuMemory)
    trace: Trace = field(default_factory=Trace)

    def batches(self, language_model: LanguageModel) -> Batches:
        """How much this model is given at once."""
        return Batches(self.token_budget or language_model.token_budget, self.memory)


class Editor(Protocol[H_contra]):
    """A method that makes edits. The model is left as it was, bit for bit: the caller applies the outcome."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: H_contra,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """Find the modification that makes the edits, at least one.

        Raises EditFailed, SubjectNotFound, SubjectTruncated or OutOfGpuMemory.
        """
        ...
