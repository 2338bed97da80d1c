"""EMMET."""

from __future__ import annotations

from pydantic import AliasChoices

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import (
    KeyStatisticsHyperparameters,
    SingleLayerHyperparameters,
    TargetHyperparameters,
    setting,
)

EMMET_PAPER = "Gupta et al. 2024, EMMET (arXiv 2403.14236), and its code for GPT-J"

# Blocks that the publication edits, by number of blocks: GPT-J and Llama-2 7B, GPT-2 XL.
PUBLISHED_LAYER = {28: 5, 32: 5, 48: 17}


class EmmetHyperparameters(TargetHyperparameters, SingleLayerHyperparameters, KeyStatisticsHyperparameters):
    """EMMET."""

    mom2_update_weight: float = setting(
        10_000.0, "Weight of the preserved keys (λ); matters only with slack.", EMMET_PAPER, gt=0
    )
    constraint_slack: float = setting(
        0.1,
        "Added to the diagonal of Kᵀ (λC)⁻¹ K where there are several edits (α); 0: every key is answered "
        "with exactly its edit.",
        EMMET_PAPER,
        ge=0,
        validation_alias=AliasChoices("constraint_slack", "emmet_lambda"),
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks: one, unless more are asked for."""
        resolved = super().edited_layers(block_count)
        if self.layers is None and block_count in PUBLISHED_LAYER:
            return (PUBLISHED_LAYER[block_count],)
        return resolved


DESCRIPTION = EditorDescription(
    name="emmet",
    title="EMMET",
    paper="https://arxiv.org/abs/2403.14236",
    hyperparameters=EmmetHyperparameters,
    summary="Finds target vectors like MEMIT, and has one block's MLP answer every edit's key with exactly "
    "its target, changing what it answers to other keys as little as that allows.",
    family_defaults={
        "gpt2": {"v_num_grad_steps": 20, "mom2_update_weight": 1_000.0},
        "llama": {"clamp_norm_factor": 4.0, "v_weight_decay": 1e-3, "mom2_update_weight": 1.0},
    },
    model_defaults={ALMANAC: {"layers": [2], "mom2_update_weight": 2_000.0, "mom2_tokens": 30_000}},
)
