"""Running a model in fewer digits, as when it is loaded with that dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.stressing.footprint import Footprint, StressFailed


@contextmanager
def cast_to(language_model: LanguageModel, dtype: torch.dtype, footprint: Footprint) -> Iterator[None]:
    """All parameters in `dtype`, and so the computation, while the context lasts; then as before.

    Buffers keep their dtype, as they do when a model is loaded: rotary frequencies stay float32. Raises
    StressFailed for weights that are too large for the dtype.
    """
    kept = {parameter: parameter.data for parameter in language_model.model.parameters()}
    try:
        for name, parameter in language_model.model.named_parameters():
            values = parameter.data.to(dtype)
            if not bool(torch.isfinite(values).all()):
                raise StressFailed(f"{name} has weights beyond what {dtype} holds".replace("torch.", ""))
            footprint.note(parameter.data, values)
            parameter.data = values
        yield
    finally:
        for parameter, values in kept.items():
            parameter.data = values
