"""Edits that were made elsewhere: the editor `supplied` finds out what was changed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.stored_modifications import load_modification
from services.worker.editing.supplied_weights import (
    SuppliedModelUnusable,
    SuppliedParameter,
    different_settings,
    supplied_parameters,
)
from services.worker.language_models.anatomy import Anatomy
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import Modification, ModificationMismatch
from services.worker.language_models.progress import Progress, WorkDone, untold
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from shared.editors import SuppliedHyperparameters
from shared.edits import Edit

MOST_NAMES = 5


class Supplied:
    """The editor `supplied`; the edits are only asked about, later."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: SuppliedHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`; raises SuppliedModelUnusable, too."""
        if materials.supplied is None:
            raise ValueError("no supplied model is among the materials")
        if hyperparameters.delta is not None:
            modification = supplied_modification(language_model, materials.supplied)
            changes = Changes.of_modification(language_model.anatomy, modification)
            run.progress(1, 1)
        else:
            modification, changes = modification_to(language_model, materials.supplied, run.progress)
        return EditOutcome(
            modification=modification,
            edited_layers=hyperparameters.layers or changes.layers,
            losses=(),
            warnings=changes.warnings(),
        )


@dataclass(frozen=True)
class Changes:
    """Where a supplied model differs from the base.

    layers: its edited blocks. elsewhere: edited parameters outside the blocks. rounded: parameters that
    differ only because the supplied model was stored in a coarser dtype. settings: in its configuration.
    """

    layers: tuple[int, ...]
    elsewhere: tuple[str, ...]
    rounded: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @classmethod
    def of(cls, anatomy: Anatomy, edited: Iterable[str]) -> "Changes":
        """Sort edited parameters by where they are."""
        blocks = {f"{path}.": index for index, path in enumerate(anatomy.blocks)}
        layers: set[int] = set()
        elsewhere = []
        for name in edited:
            inside = [index for path, index in blocks.items() if name.startswith(path)]
            layers.update(inside)
            if not inside:
                elsewhere.append(name)
        return cls(tuple(sorted(layers)), tuple(elsewhere))

    @classmethod
    def of_modification(cls, anatomy: Anatomy, modification: Modification) -> "Changes":
        """What a stored modification says; one that is no change of weights does not say where it is."""
        return cls.of(anatomy, modification.parameters if isinstance(modification, WeightDelta) else ())

    def warnings(self) -> tuple[str, ...]:
        """What the reader of a result is to know."""
        told = []
        if self.elsewhere:
            told.append(f"the supplied model is edited outside its blocks too: {listed(self.elsewhere)}")
        if self.rounded:
            told.append(
                f"{len(self.rounded)} parameters of the supplied model differ from the base's only because "
                "they were stored with fewer digits; they do not count as edited"
            )
        if self.settings:
            told.append(
                f"the configuration of the supplied model differs in {listed(self.settings)}; it is audited "
                "under the base model's"
            )
        return tuple(told)


def find_changes(
    language_model: LanguageModel,
    checkpoint: Path,
    progress: Progress = untold,
    note: Callable[[SuppliedParameter], None] = lambda _parameter: None,
) -> Changes:
    """Where a supplied model differs from the base; `note` is called with each parameter that does.

    checkpoint: its directory. progress: told of the numbers compared. Raises SuppliedModelUnusable, also
    when nothing was edited.
    """
    edited: list[str] = []
    rounded: list[str] = []
    work = WorkDone(progress, whole=sum(parameter.numel() for parameter in language_model.model.parameters()))
    other_settings = different_settings(language_model, checkpoint)
    for parameter in supplied_parameters(language_model, checkpoint):
        if parameter.differs:
            (edited if parameter.edited else rounded).append(parameter.name)
            note(parameter)
        work.advance(parameter.base.numel())
    if not edited:
        raise SuppliedModelUnusable("it has the weights of the base model; nothing was edited")
    return replace(
        Changes.of(language_model.anatomy, edited), rounded=tuple(rounded), settings=other_settings
    )


def modification_to(
    language_model: LanguageModel, checkpoint: Path, progress: Progress
) -> tuple[WeightDelta, Changes]:
    """The delta that gives the checkpoint's weights bit for bit; raises as `find_changes`."""
    deltas: dict[str, LowRank | Dense] = {}

    def keep(parameter: SuppliedParameter) -> None:
        deltas[parameter.name] = parameter.delta()

    changes = find_changes(language_model, checkpoint, progress, keep)
    return WeightDelta(deltas, language_model.revision), changes


def supplied_modification(language_model: LanguageModel, path: Path) -> Modification:
    """The modification in a file, made for this very model; raises SuppliedModelUnusable."""
    try:
        modification = load_modification(path)
        if modification.base_revision != language_model.revision:
            raise SuppliedModelUnusable(
                f"its delta was made for revision {modification.base_revision} of the base model, "
                f"the audited one is {language_model.revision}"
            )
        with modification.applied(language_model):
            return modification  # it fits
    except ModificationMismatch as error:
        raise SuppliedModelUnusable(error.reason) from error
    except OSError as error:
        raise SuppliedModelUnusable(f"its delta cannot be read: {error.strerror}") from error


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
