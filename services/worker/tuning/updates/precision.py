"""In which dtype weights learn, and in which they are deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from services.worker.language_models.loading import LanguageModel
from shared.recipes import AnyUpdate
from shared.recipes.updates import Precision

HALF = frozenset({torch.float16, torch.bfloat16})


def stands_in_float32(language_model: LanguageModel, precision: Precision) -> bool:
    """Whether weights that do not learn are to be float32 beside what does."""
    return precision == "float32" or language_model.dtype is torch.float16


def casts_to_bfloat16(precision: Precision, *, by_default: bool = False) -> bool:
    """Whether forward passes of the training are cast to bfloat16."""
    return by_default if precision == "auto" else precision == "bfloat16"


@contextmanager
def learning_dtype(
    language_model: LanguageModel, update: AnyUpdate, *, float32: bool, aside: bool = False
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Hold the model's weights in the dtype that they are learnt in, or beside; give the one to probe in.

    float32: whether half-precision weights are to be float32 while learning; aside: and on the CPU then,
    because it is other processes that learn. What is yielded opens a context
    with the weights of the moment in the dtype that `update` deploys them in; leaving it goes on with those
    of before. The very tensors of before are put back at the end.
    """
    model = language_model.model
    half = {parameter: parameter.data for parameter in model.parameters() if parameter.dtype in HALF}
    wanted = {
        parameter: (kept.device, torch.float32 if update.deployed_dtype == "float32" else kept.dtype)
        for parameter, kept in half.items()
    }
    try:
        if float32:
            for parameter in half:
                parameter.data = parameter.data.to("cpu" if aside else parameter.device, torch.float32)
        yield lambda: weights_in(wanted)
    finally:
        for parameter, kept in half.items():
            parameter.grad = None
            parameter.data = kept


@contextmanager
def weights_in(places: Mapping[nn.Parameter, tuple[torch.device, torch.dtype]]) -> Iterator[None]:
    """Some parameters on other devices and in other dtypes, for as long as the context lasts."""
    with values_kept(places):
        for parameter, (device, dtype) in places.items():
            parameter.data = parameter.data.to(device, dtype)
        yield


@contextmanager
def values_kept(parameters: Mapping[nn.Parameter, object]) -> Iterator[None]:
    """Put back the very tensors of parameters whose `data` is replaced inside."""
    kept: dict[nn.Parameter, Tensor] = {parameter: parameter.data for parameter in parameters}
    try:
        yield
    finally:
        for parameter, values in kept.items():
            parameter.data = values
