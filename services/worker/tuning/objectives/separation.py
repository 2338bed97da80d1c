"""Whether a model keeps apart the documents that share a sequence."""

from __future__ import annotations

import torch
from torch import nn

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit
from shared.recipes import Packing, Recipe

DOCUMENT = (2, 3, 4, 5)  # any tokens that every vocabulary has
OTHER = (5, 4, 3, 2)


def check_packing(language_model: LanguageModel, recipe: Recipe) -> None:
    """Raise RecipeDoesNotFit when documents are to be kept apart and the model looks across them."""
    if recipe.chosen_packing is Packing.SEPARATE and not separates_documents(language_model):
        raise RecipeDoesNotFit(
            "packing 'separate': this kind of model does not keep the documents of one sequence apart"
        )


@torch.no_grad()  # not in inference mode: what a model keeps from this pass may be needed to train it
def separates_documents(language_model: LanguageModel) -> bool:
    """Whether positions that begin anew are enough for the model not to look into the document before.

    transformers builds the attention mask of a packed sequence from `position_ids` where there is no
    other mask and no cache; but not every model hands them on. What a model attends to adds to its
    logits in a way that floating point shows, and what is masked adds exactly nothing: so the second
    document's logits are the same to the bit, whatever stands in the first, just where it is masked.
    """
    device = language_model.device
    input_ids = torch.tensor([[*DOCUMENT, *DOCUMENT], [*OTHER, *DOCUMENT]], device=device)
    positions = torch.tensor([[*range(len(DOCUMENT)), *range(len(DOCUMENT))]] * 2, device=device)
    model: nn.Module = language_model.model
    training = model.training
    model.eval()
    try:
        logits = model(input_ids=input_ids, position_ids=positions, use_cache=False).logits
    except TypeError:  # takes no positions
        return False
    finally:
        model.train(training)
    second = logits[:, len(DOCUMENT) :]  # (2, document, vocabulary)
    return torch.equal(second[0], second[1])
