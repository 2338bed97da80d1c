"""QLoRA: low-rank adapters beside projections in 4-bit NormalFloat (Dettmers et al., 2305.14314)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.updates.adapters import injected
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.precision import (
    casts_to_bfloat16,
    learning_dtype,
    stands_in_float32,
)
from services.worker.tuning.updates.targets import linear_layers_of
from shared.recipes import QloraUpdate
from shared.recipes.updates import Precision

PACKAGE = "bitsandbytes"


def check_can_be_quantised(language_model: LanguageModel) -> None:
    """Raise RecipeDoesNotFit unless the model is on a CUDA device and bitsandbytes is installed."""
    if language_model.device.type != "cuda":
        raise RecipeDoesNotFit(f"qlora: needs a CUDA device, the model is on {language_model.device.type}")
    if find_spec(PACKAGE) is None:
        raise RecipeDoesNotFit(f"qlora: the worker lacks the package {PACKAGE}")


@contextmanager
def quantised_with_adapters(
    language_model: LanguageModel, update: QloraUpdate, frozen: Frozen, precision: Precision = "auto"
) -> Iterator[Learner]:
    """Adapters learn, in float32, beside the blocks' projections in 4 bits; the weights of before come back.

    Embeddings, norms and head stay in the model's dtype, or float32 where that is float16. Frozen
    projections are quantised like the others: to be frozen is not to learn.
    """
    check_can_be_quantised(language_model)
    with adapters_beside_quantised(language_model, update, frozen, precision) as learner:
        yield learner


@contextmanager
def adapters_beside_quantised(
    language_model: LanguageModel, update: QloraUpdate, frozen: Frozen, precision: Precision = "auto"
) -> Iterator[Learner]:
    """See `quantised_with_adapters`, on any device that bitsandbytes knows."""
    model = language_model.model
    float32 = stands_in_float32(language_model, precision)
    with (
        restored(model, {}),
        learning_dtype(language_model, update, float32=float32) as as_deployed,
        quantised_blocks(language_model, update),
        injected(language_model, update, frozen),
    ):
        yield Learner(model, as_deployed, casts_to_bfloat16(precision))


@contextmanager
def quantised_blocks(language_model: LanguageModel, update: QloraUpdate) -> Iterator[None]:
    """Every linear layer of the blocks as a 4-bit one, and the very modules of before back afterwards."""
    model = language_model.model
    kept = {
        path: layer
        for block in language_model.anatomy.blocks
        for path, layer in linear_layers_of(language_model, block).items()
    }
    marked = "is_loaded_in_4bit"  # what peft goes by
    try:
        for path, layer in kept.items():
            model.set_submodule(path, quantised(layer, update))
        setattr(model, marked, True)
        yield
    finally:
        model.__dict__.pop(marked, None)
        for path, layer in kept.items():
            model.set_submodule(path, layer)


def quantised(layer: nn.Module, update: QloraUpdate) -> nn.Module:
    """A linear layer or a Conv1D with its weight in 4-bit NormalFloat, computing in the dtype of before."""
    bitsandbytes: Any = import_module(PACKAGE)
    weight: Any = layer.weight
    values = weight.detach().T if isinstance(layer, Conv1D) else weight.detach()  # (out, in)
    outputs, inputs = values.shape
    bias = getattr(layer, "bias", None)
    four_bit = bitsandbytes.nn.Linear4bit(
        inputs,
        outputs,
        bias=bias is not None,
        compute_dtype=values.dtype,
        compress_statistics=update.double_quantisation,
        quant_type="nf4",
        device="meta",
    )
    four_bit.weight = bitsandbytes.nn.Params4bit(
        values.contiguous().clone(),
        requires_grad=False,
        compress_statistics=update.double_quantisation,
        quant_type="nf4",
    )
    four_bit.bias = bias  # the layer's own parameter
    on_device: nn.Module = four_bit.to(values.device)  # which is when it quantises
    return on_device
