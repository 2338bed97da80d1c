"""PMET."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import KeyStatisticsHyperparameters, TargetHyperparameters, setting

PMET_PAPER = "Li et al. 2023, PMET (arXiv 2308.08742), and its code for GPT-J"


class PmetHyperparameters(TargetHyperparameters, KeyStatisticsHyperparameters):
    """PMET."""

    v_num_grad_steps: int = setting(
        30, "Evaluations of the loss; updates are at most one fewer.", PMET_PAPER, ge=1, le=1_000
    )
    v_lr: float = setting(0.2, "Learning rate of Adam on the target vectors.", PMET_PAPER, gt=0, le=10)
    v_weight_decay: float = setting(
        0.5, "Weight of the norms of the changes, over the squared norms of the vectors.", PMET_PAPER, ge=0
    )
    clamp_norm_factor: float = setting(
        0.75, "Largest norm of each change, in norms of its unedited vector.", PMET_PAPER, gt=0, le=100
    )
    kl_factor: float = setting(
        1.0, "Weight of the divergence, in nats, of what the model says of the subject.", PMET_PAPER, ge=0
    )
    mom2_update_weight: float = setting(
        6_000.0, "Weight of the preserved keys against the new ones (λ).", PMET_PAPER, gt=0
    )


DESCRIPTION = EditorDescription(
    name="pmet",
    title="PMET",
    paper="https://arxiv.org/abs/2308.08742",
    hyperparameters=PmetHyperparameters,
    summary="Finds what a block's attention and its MLP would have to put out for each edit, and writes the "
    "MLP's part into the MLPs of several blocks.",
    family_defaults={
        "gpt_neox": {
            "v_lr": 0.5,
            "clamp_norm_factor": 0.8,
            "kl_factor": 0.8,
            "mom2_update_weight": 15_000.0,
        },
        # Of EasyEdit (Wang et al. 2023, arXiv 2308.07269); the publication has no Llama.
        "llama": {
            "v_num_grad_steps": 20,
            "v_lr": 0.5,
            "clamp_norm_factor": 1.0,
            "kl_factor": 0.0625,
            "mom2_update_weight": 15_000.0,
        },
    },
    model_defaults={ALMANAC: {"clamp_norm_factor": 2.0, "mom2_update_weight": 200.0, "mom2_tokens": 30_000}},
)
