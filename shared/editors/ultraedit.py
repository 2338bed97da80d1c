"""UltraEdit."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import LayeredHyperparameters, Layers, setting
from shared.editors.layers import resolve_layers
from shared.editors.sequential import SequentialHyperparameters

ULTRAEDIT_PAPER = "Gu et al. 2025, UltraEdit (arXiv 2505.14679), and its code"

# First and last block that the publication writes to, by number of blocks: GPT-J, Mistral 7B.
PUBLISHED_LAYERS = {28: (18, 26), 32: (29, 30)}


class UltraEditHyperparameters(SequentialHyperparameters, LayeredHyperparameters):
    """UltraEdit."""

    layers: Layers | None = setting(
        None,
        "Blocks whose MLP down-projection is edited, counted from 0, increasing; null: late ones, by the "
        "model's depth; auto: by causal tracing on the audit's own facts.",
        ULTRAEDIT_PAPER + "; of models of other depths the third before the last block",
    )
    lr: float = setting(
        1e-6,
        "Length of the step along each normalised gradient (η), per squared norm of the normalised key.",
        ULTRAEDIT_PAPER,
        gt=0,
        le=1_000,
    )
    batch_size: int | None = setting(
        100,
        "Edits per batch, where batches does not say; null: all at once.",
        ULTRAEDIT_PAPER,
        ge=1,
        le=10_000_000,
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks."""
        if self.layers is not None:
            return resolve_layers(self.layers, block_count)
        last = max(0, block_count - 2)
        first, last = PUBLISHED_LAYERS.get(block_count, (min(last, round(block_count * 2 / 3)), last))
        return tuple(range(first, last + 1))


DESCRIPTION = EditorDescription(
    name="ultraedit",
    title="UltraEdit",
    paper="https://arxiv.org/abs/2505.14679",
    hyperparameters=UltraEditHyperparameters,
    summary="Takes one step along normalised gradients, fitted in closed form to the keys of several late "
    "MLPs where the edits' targets are predicted, batch after batch.",
    model_defaults={ALMANAC: {"layers": [4, 5], "lr": 1.4e-3}},
)
