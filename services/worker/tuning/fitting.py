"""Whether a model can be tuned by a recipe at all, told before any work."""

from __future__ import annotations

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.sharded.support import check_can_be_sharded
from services.worker.tuning.updates import check_update_fits
from shared.recipes import Recipe, VirtualTokens


def check_recipe_fits(
    language_model: LanguageModel, recipe: Recipe, frozen: Frozen, processes: int = 1
) -> None:
    """Raise RecipeDoesNotFit when the model cannot be updated so, sequences do not fit or nothing learns.

    processes: how many are to train together.
    """
    check_can_be_sharded(recipe, processes)
    check_positions(language_model, recipe)
    check_update_fits(language_model, recipe.update, frozen)
    kind = type(language_model.model)
    if recipe.gradient_checkpointing and not kind.supports_gradient_checkpointing:
        raise RecipeDoesNotFit(f"gradient_checkpointing: {kind.__name__} does not know it")


def check_positions(language_model: LanguageModel, recipe: Recipe) -> None:
    """Raise RecipeDoesNotFit when sequences would be longer than the model's positions reach."""
    limit, virtual = language_model.context_length, virtual_tokens(recipe)
    if limit is not None and recipe.sequence_length + virtual > limit:
        beside = f" with {virtual} virtual tokens" if virtual else ""
        raise RecipeDoesNotFit(
            f"sequence_length {recipe.sequence_length}{beside} exceeds the model's {limit} positions"
        )


def virtual_tokens(recipe: Recipe) -> int:
    """Learnt tokens that stand before every sequence."""
    return recipe.update.virtual_tokens if isinstance(recipe.update, VirtualTokens) else 0
