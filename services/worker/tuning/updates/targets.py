"""Which modules adapters stand at, by the model's anatomy."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.anatomy import Anatomy
from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import Frozen, frozen_names
from shared.recipes import AdapterUpdate
from shared.recipes.updates import Targets


def adapted_projections(
    language_model: LanguageModel, update: AdapterUpdate, frozen: Frozen
) -> dict[str, nn.Module]:
    """Every linear layer of the blocks that an adapter may stand at, by its full dotted path.

    Raises RecipeDoesNotFit when all of them are frozen, or the model has none there.
    """
    found = {
        path: module
        for index, block in enumerate(language_model.anatomy.blocks)
        for path, module in linear_layers_of(language_model, block).items()
        if is_target(language_model.anatomy, index, path, update.targets)
    }
    return unfrozen(language_model, found, frozen, update.targets)


def linear_layers_of(language_model: LanguageModel, block: str) -> dict[str, nn.Module]:
    """Every linear layer of a block by its full dotted path."""
    return {
        f"{block}.{path}": module
        for path, module in language_model.model.get_submodule(block).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def is_target(anatomy: Anatomy, block: int, path: str, targets: Targets) -> bool:
    """Whether a linear layer of a block belongs to its attention or to the rest, as asked."""
    in_attention = path.startswith(f"{anatomy.attentions[block]}.")
    return targets == "all" or (targets == "attention") is in_attention


def rescaled_projections(
    language_model: LanguageModel, update: AdapterUpdate, frozen: Frozen
) -> tuple[dict[str, nn.Module], list[str]]:
    """The layers that IA³ stands at, by path, and which of them have their input rescaled, not their output.

    Outputs: keys and values (2205.05638, section 3.3), or all in one where a model makes queries with them.
    Inputs: of the MLP's down-projection, which is its inner state. Raises RecipeDoesNotFit as above.
    """
    model, anatomy = language_model.model, language_model.anatomy
    outputs = [path for inputs in anatomy.attention_inputs for path in keys_and_values(inputs)]
    inner = list(anatomy.mlp_down_projections)
    chosen = {"attention": outputs, "mlp": inner, "all": [*outputs, *inner]}[update.targets]
    found = unfrozen(
        language_model, {path: model.get_submodule(path) for path in chosen}, frozen, update.targets
    )
    return found, [path for path in inner if path in found]


def keys_and_values(attention_inputs: Iterable[str]) -> list[str]:
    """The layers that make keys and values: those whose name does not begin as queries do, else all."""
    paths = list(attention_inputs)
    told = [path for path in paths if not path.rpartition(".")[2].lower().startswith(("q", "wq"))]
    return told if len(paths) > 1 and told else paths


def unfrozen(
    language_model: LanguageModel, modules: dict[str, nn.Module], frozen: Frozen, targets: Targets
) -> dict[str, nn.Module]:
    """The modules whose weight is not frozen; raises RecipeDoesNotFit when none is left."""
    if not modules:
        raise RecipeDoesNotFit(f"targets={targets}: the blocks have no linear layer there for an adapter")
    held = frozen_names(language_model, frozen)
    free = {path: module for path, module in modules.items() if f"{path}.weight" not in held}
    if not free:
        raise RecipeDoesNotFit("every block is frozen where adapters would go, and they go nowhere else")
    return free
