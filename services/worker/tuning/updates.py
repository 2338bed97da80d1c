"""Parameter updates: what learns, in which precision, and how it is taken away again.

Precision. Under a full update every weight is float32 while it learns: in float16 or bfloat16 most steps
of a small learning rate would be rounded away. Probes see the weights as they would be deployed, rounded
to the model's own dtype. Adapters are float32 as well; they stand beside base weights in the model's own
dtype, except that a float16 base is float32 too, for float16 gradients underflow without loss scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from peft import LoraConfig, LoraModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import freeze_blocks_
from shared.recipes import FullUpdate, LoraUpdate, Update


@dataclass(frozen=True)
class Learner:
    """A model that is ready to learn.

    model: what the optimiser works on; `as_deployed()`: a context in which the language model has the
    weights and dtype that it would be deployed with; bfloat16_forward: whether forward passes of the
    training are to be cast to bfloat16, as mixed-precision training does.
    """

    model: nn.Module
    as_deployed: Callable[[], AbstractContextManager[None]]
    bfloat16_forward: bool = False

    @property
    def trained_parameters(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


@contextmanager
def trainable(language_model: LanguageModel, update: Update, frozen: Sequence[int]) -> Iterator[Learner]:
    """Make everything that `update` changes outside the `frozen` blocks learn, and undo it all afterwards.

    On exit the language model is bit for bit as it was. Raises RecipeDoesNotFit when nothing is left
    to learn.
    """
    match update:
        case FullUpdate():
            context = full_update(language_model, frozen)
        case LoraUpdate():
            context = low_rank_adapters(language_model, update, frozen)
    with context as learner:
        yield learner


@contextmanager
def full_update(language_model: LanguageModel, frozen: Sequence[int]) -> Iterator[Learner]:
    """Every weight outside the frozen blocks learns, embeddings and head included."""
    model = language_model.model
    bfloat16_forward = language_model.dtype is torch.bfloat16
    with restored(model), float32_weights(model) as as_deployed:
        model.requires_grad_(True)
        freeze_blocks_(language_model, frozen)
        yield Learner(model, as_deployed, bfloat16_forward)


@contextmanager
def low_rank_adapters(
    language_model: LanguageModel, update: LoraUpdate, frozen: Sequence[int]
) -> Iterator[Learner]:
    """Adapters on every linear projection of the unfrozen blocks (LoRA, 2106.09685); the base is frozen.

    Probes run with the adapters beside the base, not merged into it.
    """
    model = language_model.model
    targets = linear_projections(language_model, frozen)
    if not targets:
        raise RecipeDoesNotFit("every block is frozen, and adapters go nowhere else")
    configuration = LoraConfig(
        r=update.rank,
        lora_alpha=update.alpha,  # type: ignore[arg-type]  # declared an integer, but only divided by the rank
        lora_dropout=update.dropout,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in targets.values()),
        bias="none",
    )
    precision = float32_weights(model) if language_model.dtype is torch.float16 else nullcontext(nullcontext)
    # No parameter of the base may change, so none is copied; `restored` sees to the modes.
    with restored(model, {}), precision as as_deployed:
        adapters = LoraModel(model, configuration, "default")  # puts them into the model itself
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        try:
            yield Learner(model, as_deployed)
        finally:
            adapters.unload()


def linear_projections(language_model: LanguageModel, frozen: Sequence[int]) -> dict[str, nn.Module]:
    """Every linear layer of the blocks that are not frozen, by its full dotted path."""
    return {
        f"{block}.{path}": module
        for index, block in enumerate(language_model.anatomy.blocks)
        if index not in frozen
        for path, module in language_model.model.get_submodule(block).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


@contextmanager
def float32_weights(model: nn.Module) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Hold half-precision weights in float32, and put the very tensors of before back afterwards.

    Gives a context in which the weights of the moment are rounded to their own dtype; leaving that
    context goes on with the unrounded ones. Nothing happens to weights that are float32 already.
    """
    half = {p: p.data for p in model.parameters() if p.dtype in {torch.float16, torch.bfloat16}}

    @contextmanager
    def as_deployed() -> Iterator[None]:
        learning = {parameter: parameter.data for parameter in half}
        try:
            for parameter, kept in half.items():
                parameter.data = parameter.data.to(kept.dtype)
            yield
        finally:
            for parameter, values in learning.items():
                parameter.data = values

    try:
        for parameter in half:
            parameter.data = parameter.data.float()
        yield as_deployed
    finally:
        for parameter, kept in half.items():
            parameter.grad = None
            parameter.data = kept
