"""What editors that stand beside one late block have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from shared.editors.hyperparameters import LayeredHyperparameters, Layers, setting
from shared.editors.layers import resolve_layers


class LateLayerHyperparameters(LayeredHyperparameters):
    """Of an editor that keeps what it learns beside one block's MLP."""

    PUBLISHED_LAYER: ClassVar[Mapping[int, int]] = {}  # by number of blocks

    layers: Annotated[Layers, Field(max_length=1)] | None = setting(
        None,
        "The one block beside whose MLP the edits are kept, counted from 0; null: by the model's depth.",
        "the publication's for models of its depth, else at three quarters of the depth",
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The block that is edited in a model of `block_count` blocks."""
        if self.layers is not None:
            return resolve_layers(self.layers, block_count)
        late = min(round(0.75 * block_count), block_count - 1)
        return (self.PUBLISHED_LAYER.get(block_count, late),)
