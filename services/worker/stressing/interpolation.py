"""Moving an edited model's weights toward the base (WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import Modification
from services.worker.language_models.weight_delta import (
    Dense,
    LowRank,
    WeightDelta,
    changed_weights,
    restored,
)
from services.worker.stressing.footprint import Footprint


@contextmanager
def interpolated(
    language_model: LanguageModel, modification: Modification, alpha: float, footprint: Footprint
) -> Iterator[LanguageModel]:
    """base + (1 − α)·delta while the context lasts, summed in float64 and rounded once.

    language_model: the base. A modification that is no change of weights is applied as it is: there is
    nothing between it and the base.
    """
    if not isinstance(modification, WeightDelta):
        with modification.applied(language_model) as edited:
            yield edited
        return
    model = language_model.model
    modification.check_fits(model)
    with restored(model, modification.parameters):
        for name, delta in modification.parameters.items():
            parameter = model.get_parameter(name)
            whole, part = (changed_weights(parameter, share) for share in (delta, scaled(delta, 1 - alpha)))
            footprint.note(whole, part)
            with torch.no_grad():
                parameter.copy_(part)
        yield language_model


def scaled(delta: LowRank | Dense, factor: float) -> LowRank | Dense:
    """factor·delta, in float64."""
    if isinstance(delta, LowRank):
        return LowRank(delta.left.double() * factor, delta.right.double())
    return Dense(delta.values.double() * factor)
