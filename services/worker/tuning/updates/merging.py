"""Adapters merged into the weights for a while, and the unmerged ones of before back again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from services.worker.tuning.updates.precision import values_kept


@contextmanager
def merged(tuner: BaseTuner) -> Iterator[None]:
    """The model with its adapters merged into its weights, each rounded once to the dtype it has.

    peft takes merged adapters out by subtraction, which leaves rounding behind; here the very tensors of
    before are put back, so that tuning goes on from them bit for bit.
    """
    layers = [module for module in tuner.model.modules() if isinstance(module, BaseTunerLayer)]
    weights = {parameter: None for layer in layers for parameter in layer.get_base_layer().parameters()}
    with values_kept(weights):
        for parameter in weights:
            parameter.data = parameter.data.clone()  # peft adds to some in place
        tuner.merge_adapter()
        try:
            yield
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # IA³ warns that it is inexact
                tuner.unmerge_adapter()  # type: ignore[no-untyped-call]
