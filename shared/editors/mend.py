"""MEND."""

from __future__ import annotations

from typing import Literal

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import LayeredHyperparameters, Layers, setting
from shared.editors.layers import resolve_layers
from shared.preparations import Preparation

MEND_PAPER = "Mitchell et al. 2022, MEND (arXiv 2110.11309)"
OWN = "own"
EDITED_BLOCKS = 3
MOST_EDITS_AT_ONCE = 50


class MendHyperparameters(LayeredHyperparameters):
    """MEND: all but the layers are settings of the training that its hypernetwork goes through first."""

    layers: Layers | None = setting(
        None,
        "Blocks whose MLP projections are edited, counted from 0, increasing; null: the last three.",
        MEND_PAPER,
    )
    training: Literal["builtin:almanac", "unedited"] = setting(
        "builtin:almanac",
        "Edits that the hypernetwork learns from: counterfactuals of the built-in model's facts, or the "
        "request's `controls.unedited`. Records about anything that is measured are left out.",
        OWN,
    )
    training_edits: int = setting(
        2_000, "Learn from at most this many edits, drawn by the seed.", OWN, ge=20, le=100_000
    )
    training_steps: int = setting(5_000, "Updates of the hypernetwork.", OWN, ge=1, le=1_000_000)
    edits_at_once: int | None = setting(
        None,
        "Edits per update of the hypernetwork, applied together; null: as many as are to be made, at most "
        f"{MOST_EDITS_AT_ONCE}.",
        MEND_PAPER,
        ge=1,
        le=1_000,
    )
    training_lr: float = setting(1e-4, "Learning rate of Adam on the hypernetwork.", OWN, gt=0, le=1)
    edit_lr: float = setting(
        1e-4, "What the learned step size of each weight begins at.", MEND_PAPER, gt=0, le=100
    )
    edit_loss_weight: float = setting(
        0.1, "Weight of the edits' loss against that of what is to stay (c_edit).", MEND_PAPER, gt=0, le=100
    )
    rank: int = setting(
        256,
        "Rank of the hypernetwork's matrices; 1,920 in the publication.",
        OWN,
        ge=1,
        le=4_096,
    )
    seed: int = setting(0, "Of the hypernetwork's first weights and of the draws.", OWN, ge=0, lt=2**31)

    def group_size(self, edits_to_make: int) -> int:
        """How many edits the hypernetwork is taught at once when so many are to be made with it."""
        return self.edits_at_once or min(edits_to_make, MOST_EDITS_AT_ONCE)

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks."""
        if self.layers is None:
            return tuple(range(max(0, block_count - EDITED_BLOCKS), block_count))
        return resolve_layers(self.layers, block_count)


DESCRIPTION = EditorDescription(
    name="mend",
    title="MEND",
    paper="https://arxiv.org/abs/2110.11309",
    hyperparameters=MendHyperparameters,
    summary="A hypernetwork, trained beforehand on other edits of the same model, turns the gradient of each "
    "edit into an update of the last MLPs.",
    model_defaults={ALMANAC: {}},
    preparation=Preparation.HYPERNETWORK,
)
