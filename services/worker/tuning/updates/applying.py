"""From an update as a recipe states it to a model that learns by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.updates.adapters import adapters_learning
from services.worker.tuning.updates.in_place import unfrozen_biases, unfrozen_weights, weights_learning
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.prefix_tuning import keys_and_values, keys_and_values_learning
from services.worker.tuning.updates.prompt_tuning import embeddings_learning
from services.worker.tuning.updates.quantised import check_can_be_quantised, quantised_with_adapters
from services.worker.tuning.updates.targets import adapted_projections, rescaled_projections
from services.worker.tuning.updates.virtual_tokens import check_room
from shared.recipes import (
    BitFitUpdate,
    DoraUpdate,
    FullUpdate,
    Ia3Update,
    LoraUpdate,
    PrefixTuningUpdate,
    PromptTuningUpdate,
    QloraUpdate,
    RsLoraUpdate,
    Update,
)
from shared.recipes.updates import Precision


@contextmanager
def trainable(
    language_model: LanguageModel,
    update: Update,
    frozen: Frozen,
    precision: Precision = "auto",
    *,
    aside: bool = False,
) -> Iterator[Learner]:
    """Make everything that `update` changes outside of what is frozen learn, and undo it all afterwards.

    precision: of the training's forward passes, see `Recipe.precision`. aside: whether other processes do
    the learning, so that a model that is tuned whole need take the device's memory only as deployed.
    On exit the language model is bit for bit as it was. Raises RecipeDoesNotFit when nothing is left to
    learn, or the model cannot be updated so.
    """
    with learning(language_model, update, frozen, precision, aside) as learner:
        yield learner


def learning(
    language_model: LanguageModel, update: Update, frozen: Frozen, precision: Precision, aside: bool
) -> AbstractContextManager[Learner]:
    """See `trainable`."""
    match update:
        case FullUpdate():
            return weights_learning(
                language_model, update, unfrozen_weights(language_model, frozen), precision, aside
            )
        case BitFitUpdate():
            return weights_learning(
                language_model, update, unfrozen_biases(language_model, frozen), precision, aside
            )
        case LoraUpdate() | RsLoraUpdate() | DoraUpdate() | Ia3Update():
            return adapters_learning(language_model, update, frozen, precision)
        case QloraUpdate():
            return quantised_with_adapters(language_model, update, frozen, precision)
        case PromptTuningUpdate():
            return embeddings_learning(language_model, update, precision)
        case PrefixTuningUpdate():
            return keys_and_values_learning(language_model, update, precision)


def check_update_fits(language_model: LanguageModel, update: Update, frozen: Frozen) -> None:
    """Raise RecipeDoesNotFit when the model cannot be updated so, or nothing would learn; changes nothing."""
    match update:
        case FullUpdate():
            unfrozen_weights(language_model, frozen)
        case BitFitUpdate():
            unfrozen_biases(language_model, frozen)
        case LoraUpdate() | RsLoraUpdate() | DoraUpdate():
            adapted_projections(language_model, update, frozen)
        case Ia3Update():
            rescaled_projections(language_model, update, frozen)
        case QloraUpdate():
            check_can_be_quantised(language_model)
            adapted_projections(language_model, update, frozen)
        case PromptTuningUpdate():
            check_room(language_model, update)
        case PrefixTuningUpdate():
            check_room(language_model, update)
            keys_and_values(language_model, [0])
