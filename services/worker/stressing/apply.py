"""One stressor, put upon the base or an edited model and taken away again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import Modification
from services.worker.stressing.adapters import adapter_merged
from services.worker.stressing.casting import cast_to
from services.worker.stressing.footprint import Footprint
from services.worker.stressing.interpolation import interpolated
from services.worker.stressing.projections import projections_rewritten
from services.worker.stressing.pruning import prune_by_magnitude
from services.worker.stressing.quantisation import int4_round_trip, int8_round_trip
from shared.stressors import (
    Bfloat16,
    Float16,
    Int4,
    Int8,
    Interpolation,
    LoraMerge,
    MagnitudePruning,
)

WeightStressor = Int8 | Int4 | Bfloat16 | Float16 | MagnitudePruning | Interpolation | LoraMerge


@dataclass(frozen=True)
class Stressed:
    """A model under a stressor, and how far that moved its weights."""

    language_model: LanguageModel
    footprint: Footprint


@contextmanager
def stressed(
    base: LanguageModel,
    modification: Modification | None,
    stressor: WeightStressor,
    adapter: Path | None = None,
) -> Iterator[Stressed]:
    """The base, or with a modification the edited model, under the stressor while the context lasts.

    The weights are stressed as the edited model has them. What an editor keeps beside them (a codebook, a
    side memory, words before a prompt) stays as it was made, and works on the stressed model's states.
    adapter: the directory of the one to merge. Afterwards the base is as it was, bit for bit. Raises
    StressFailed, and ModificationMismatch as `Modification.applied` does.
    """
    footprint = Footprint()
    if isinstance(stressor, Interpolation):
        if modification is None:
            yield Stressed(base, footprint)
            return
        with interpolated(base, modification, stressor.alpha, footprint) as moved:
            yield Stressed(moved, footprint)
        return
    edited = nullcontext(base) if modification is None else modification.applied(base)
    with edited as language_model, in_place(language_model, stressor, adapter, footprint):
        yield Stressed(language_model, footprint)


def in_place(
    language_model: LanguageModel,
    stressor: Int8 | Int4 | Bfloat16 | Float16 | MagnitudePruning | LoraMerge,
    adapter: Path | None,
    footprint: Footprint,
) -> AbstractContextManager[None]:
    """The stressor on the weights that the model has now."""
    match stressor:
        case Int8():
            return projections_rewritten(language_model, int8_round_trip, footprint)
        case Int4(group_size=size, scheme=scheme):
            return projections_rewritten(
                language_model,
                lambda weight: int4_round_trip(weight, size, asymmetric=scheme == "asymmetric"),
                footprint,
            )
        case MagnitudePruning(share=share):
            return projections_rewritten(
                language_model, lambda weight: prune_by_magnitude(weight, share), footprint
            )
        case Bfloat16():
            return cast_to(language_model, torch.bfloat16, footprint)
        case Float16():
            return cast_to(language_model, torch.float16, footprint)
        case LoraMerge():
            if adapter is None:
                raise ValueError("the adapter to merge was not fetched")
            return adapter_merged(language_model, adapter, footprint)
