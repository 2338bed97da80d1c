"""What several processes can train together, told before any work."""

from __future__ import annotations

import torch

from services.worker.language_models.hooks import is_intercepted
from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit, TooFewGpus
from shared.recipes import (
    BitFitUpdate,
    DoraUpdate,
    FullUpdate,
    Ia3Update,
    LoraUpdate,
    Objective,
    Recipe,
    RsLoraUpdate,
)

# Virtual tokens are hooks on the model, which ranks would have to have too; 4-bit weights cannot be sharded.
SHARDABLE = (FullUpdate, BitFitUpdate, LoraUpdate, RsLoraUpdate, DoraUpdate, Ia3Update)


def check_can_be_sharded(recipe: Recipe, processes: int) -> None:
    """Raise RecipeDoesNotFit when several processes cannot train by the recipe; one can, always."""
    if processes == 1:
        return
    if not isinstance(recipe.update, SHARDABLE):
        raise unfit(f"update '{recipe.update.kind}'", processes)
    if recipe.objective is Objective.PREFERENCE:
        raise unfit(f"objective '{recipe.objective}'", processes)


def check_processes(language_model: LanguageModel, processes: int) -> None:
    """Raise RecipeDoesNotFit when the model cannot be trained by several processes.

    Ranks make the model anew from its configuration and its weights; what an editor put beside these
    (a codebook, a side memory) would be missing there. Raises TooFewGpus unless there is one for each.
    """
    if processes == 1:
        return
    if is_intercepted(language_model.model):
        raise unfit("a model that was edited beside its weights", processes)
    if any(getattr(module, "layerdrop", 0.0) for module in language_model.model.modules()):
        raise unfit("a model that leaves out whole layers at random", processes)  # others in every rank
    if language_model.device.type == "cuda" and torch.cuda.device_count() < processes:
        raise TooFewGpus(processes, torch.cuda.device_count())


def unfit(what: str, processes: int) -> RecipeDoesNotFit:
    """The refusal of something, in words for the operator too."""
    return RecipeDoesNotFit(
        f"{what} cannot be trained by {processes} processes; it takes a worker with "
        "HOLDFAST_TUNING_PROCESSES=1"
    )
