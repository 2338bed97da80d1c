"""Updates of the model's own weights: all that are not frozen, or the biases among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import Frozen, frozen_names
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.precision import casts_to_bfloat16, learning_dtype
from shared.recipes import BitFitUpdate, FullUpdate
from shared.recipes.updates import Precision


def unfrozen_weights(language_model: LanguageModel, frozen: Frozen) -> list[str]:
    """Names of all parameters that are not frozen; raises RecipeDoesNotFit when there is none."""
    held = frozen_names(language_model, frozen)
    names = [name for name, _ in language_model.model.named_parameters() if name not in held]
    if not names:
        raise RecipeDoesNotFit("every parameter is frozen, so that nothing would learn")
    return names


def unfrozen_biases(language_model: LanguageModel, frozen: Frozen) -> list[str]:
    """Names of all biases that are not frozen, those of norms and of the head included.

    Raises RecipeDoesNotFit, naming the model's class, when it has no biases, or none that is not frozen.
    """
    model = language_model.model
    biases = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    if not biases:
        raise RecipeDoesNotFit(f"bitfit: {type(model).__name__} has no biases")
    held = frozen_names(language_model, frozen)
    free = [name for name in biases if name not in held]
    if not free:
        raise RecipeDoesNotFit("bitfit: every bias is frozen")
    return free


@contextmanager
def weights_learning(
    language_model: LanguageModel,
    update: FullUpdate | BitFitUpdate,
    names: list[str],
    precision: Precision,
    aside: bool,
) -> Iterator[Learner]:
    """These parameters of the model learn, in float32; everything is as it was afterwards.

    aside: see `trainable`.
    """
    model = language_model.model
    bfloat16_forward = casts_to_bfloat16(precision, by_default=language_model.dtype is torch.bfloat16)
    kept_on = torch.device("cpu") if aside else None
    with (
        restored(model, names, kept_on),
        learning_dtype(language_model, update, float32=True, aside=aside) as as_deployed,
    ):
        for name in names:
            model.get_parameter(name).requires_grad_(True)
        yield Learner(model, as_deployed, bfloat16_forward)
