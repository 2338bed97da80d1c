"""Which blocks an editor writes to when nobody says."""

from __future__ import annotations

# Layer ranges chosen by causal tracing for published MEMIT runs, by number of blocks: GPT-J and GPT-NeoX
# (Meng et al. 2023), GPT-2 XL (its code), Llama of 7 to 8 billion parameters (common since).
PUBLISHED_LAYERS = {28: (3, 8), 32: (4, 8), 44: (6, 10), 48: (13, 17)}


def default_layers(block_count: int) -> tuple[int, ...]:
    """Blocks to edit in a model of `block_count` blocks, counted from 0.

    The published range where there is one for this depth, else the same place scaled: from an eighth to a
    quarter of the depth, three to five blocks where there is room, at least one block left above them.
    """
    if block_count in PUBLISHED_LAYERS:
        first, last = PUBLISHED_LAYERS[block_count]
    else:
        first = max(1, round(block_count / 8))
        last = min(max(first + 2, block_count // 4), first + 4)
    highest = max(0, block_count - 2)
    return tuple(range(min(first, highest), min(last, highest) + 1))


class LayerNotInModel(ValueError):
    """Hyperparameters that name a block which the model does not have."""


class LayersNotTraced(ValueError):
    """Hyperparameters that leave the blocks to causal tracing, which has not chosen any yet."""


def resolve_layers(layers: tuple[int, ...] | None, block_count: int) -> tuple[int, ...]:
    """The layers asked for, or the default ones.

    Raises LayerNotInModel when the model has no such block, and LayersNotTraced when there are none yet.
    """
    if layers is None:
        return default_layers(block_count)
    if not layers:
        raise LayersNotTraced("layers: 'auto' has to be settled by causal tracing first")
    if layers[-1] >= block_count:
        raise LayerNotInModel(f"layers: the model has blocks 0 to {block_count - 1}, not {layers[-1]}")
    return layers
