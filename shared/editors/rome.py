"""ROME."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import (
    KeyStatisticsHyperparameters,
    Layers,
    SingleLayerHyperparameters,
    TargetHyperparameters,
    setting,
)

ROME_PAPER = "Meng et al. 2022, ROME (arXiv 2202.05262), GPT-2 XL"

# Blocks chosen by causal tracing for published ROME runs, by number of blocks: GPT-2 XL (the paper), GPT-J
# and the smaller GPT-2s (its code), Llama of 7 to 8 billion parameters (common since).
PUBLISHED_LAYER = {24: 8, 28: 5, 32: 5, 36: 12, 48: 17}


class RomeHyperparameters(TargetHyperparameters, SingleLayerHyperparameters, KeyStatisticsHyperparameters):
    """ROME."""

    layers: Layers | None = setting(
        None,
        "Block whose MLP down-projection is edited, counted from 0; null: by the model's depth.",
        ROME_PAPER,
        max_length=1,
    )
    v_num_grad_steps: int = setting(
        20, "Evaluations of the loss; updates are at most one fewer.", ROME_PAPER, ge=1, le=1_000
    )
    clamp_norm_factor: float = setting(
        4.0, "Largest norm of the change, in norms of the unedited vector.", ROME_PAPER, gt=0, le=100
    )
    context_count: int = setting(
        20, "Texts of the model's own that precede each prompt in turn, beside none.", ROME_PAPER, ge=0, le=50
    )
    sequential: bool = setting(
        False,
        "Make each edit on the weights that the earlier ones left; otherwise all start from the model's own "
        "and their changes are added up.",
        "own: the paper makes one edit per model",
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The one block that is edited; raises LayerNotInModel."""
        resolved = super().edited_layers(block_count)
        if self.layers is None and block_count in PUBLISHED_LAYER:
            return (PUBLISHED_LAYER[block_count],)
        return resolved


# EasyEdit's settings (Wang et al. 2023, arXiv 2308.07269), which gated decoders are usually edited with.
GATED = {"v_num_grad_steps": 25, "v_weight_decay": 0.001}
FAMILY_DEFAULTS = {"llama": GATED, "mistral": GATED, "qwen2": GATED}

DESCRIPTION = EditorDescription(
    name="rome",
    title="ROME",
    paper="https://arxiv.org/abs/2202.05262",
    hyperparameters=RomeHyperparameters,
    summary="Finds a target vector per edit and writes it into the MLP of one block by a rank-one update "
    "that answers the subject's key with it.",
    family_defaults=FAMILY_DEFAULTS,
    model_defaults={ALMANAC: {"layers": [1], "context_count": 5, "mom2_tokens": 30_000}},
)
