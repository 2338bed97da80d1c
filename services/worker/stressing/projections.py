"""Stressing the blocks' linear projections in place: what quantisers and pruners leave alone, so do we.

Embeddings, head, norms and biases stay as they are, which is what LLM.int8(), GPTQ, AWQ and Wanda do by
default; so do the stacked weights of a mixture of experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.anatomy import linear_layers
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.stressing.footprint import Footprint

Rewrite = Callable[[Tensor], Tensor]  # from (outputs, inputs) to the same


def projection_weights(language_model: LanguageModel) -> dict[str, bool]:
    """The weights of the blocks' linear projections by name: whether they are stored (inputs, outputs)."""
    model = language_model.model
    return {
        f"{block}.{layer.path}.weight": isinstance(model.get_submodule(f"{block}.{layer.path}"), Conv1D)
        for block in language_model.anatomy.blocks
        for layer in linear_layers(model.get_submodule(block))
    }


@contextmanager
def projections_rewritten(
    language_model: LanguageModel, rewrite: Rewrite, footprint: Footprint
) -> Iterator[None]:
    """Put the projections through `rewrite` while the context lasts; then they are as before."""
    weights = projection_weights(language_model)
    with restored(language_model.model, weights):
        for name, transposed in weights.items():
            parameter = language_model.model.get_parameter(name)
            weight = parameter.detach().T if transposed else parameter.detach()
            rewritten = rewrite(weight)
            footprint.note(weight, rewritten)
            with torch.no_grad():
                parameter.copy_(rewritten.T if transposed else rewritten)
        yield
