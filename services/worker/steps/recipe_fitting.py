"""Whether recipes fit the model and the editors: what cannot be tuned is refused in the plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from services.worker.language_models.loading import LanguageModel
from services.worker.steps.failures import StepFailed
from services.worker.steps.fitting import told, unfit_probes
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.fitting import check_recipe_fits, virtual_tokens
from services.worker.tuning.freezing import NOTHING, Frozen, frozen_by
from services.worker.tuning.updates.virtual_tokens import positions_taken
from shared.edits import Edit
from shared.measurement import ProbeKind
from shared.recipes import Freeze, Recipe
from shared.requests import AuditRequest
from shared.states import Cause


def check_recipe(
    language_model: LanguageModel,
    recipe: Recipe,
    edits: Mapping[int, Edit],
    kinds: Collection[ProbeKind],
    processes: int = 1,
) -> None:
    """Refuse a recipe that does not fit the model, as far as it can be told without knowing what is edited.

    edits, kinds: what probes will ask, beside the recipe's virtual tokens if it has any; processes: how many
    are to train together.

    Raises:
        StepFailed: the recipe is named, and what does not fit.
    """
    independent = [freeze for freeze in recipe.freeze if not freeze.follows_edits]
    with naming(recipe):
        check_recipe_fits(language_model, recipe, NOTHING, processes)
        for freeze in independent:
            check_recipe_fits(language_model, recipe, frozen_by(freeze, language_model, ()))
    if virtual_tokens(recipe):
        with positions_taken(language_model, virtual_tokens(recipe)):
            faults = dict(unfit_probes(language_model, edits, kinds))
        if faults:
            raise StepFailed(
                Cause.USER,
                f"recipe {recipe.name}: {virtual_tokens(recipe)} virtual tokens leave too little room: "
                + told(faults),
            )


def settle_freezing(
    language_model: LanguageModel, recipe: Recipe, freeze: Freeze, editor: str, layers: Sequence[int]
) -> Frozen:
    """What a recipe freezes where an editor wrote to these blocks.

    Raises:
        StepFailed: recipe and editor are named, and what does not fit.
    """
    with naming(recipe, f" after {editor}" if freeze.follows_edits else ""):
        frozen = frozen_by(freeze, language_model, layers)
        check_recipe_fits(language_model, recipe, frozen)
    return frozen


def without_freezing(request: AuditRequest, edited: Mapping[str, Sequence[int]]) -> list[str]:
    """A warning for every configuration that is to freeze edited blocks where the editor wrote to none.

    edited: the blocks that each editor writes to, by its key.
    """
    return [
        f"{configuration}: nothing is frozen, for the editor writes to no block, or to none that it names"
        for configuration in request.configurations()
        if configuration.freeze.kind == "edited" and not edited[configuration.editor]
    ]


@contextmanager
def naming(recipe: Recipe, where: str = "") -> Iterator[None]:
    """Say of which recipe something does not fit."""
    try:
        yield
    except RecipeDoesNotFit as error:
        raise StepFailed(Cause.USER, f"recipe {recipe.name}{where}: {error.reason}") from error
