"""AlphaEdit."""

from __future__ import annotations

from pydantic import AliasChoices

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import KeyStatisticsHyperparameters, TargetHyperparameters, setting
from shared.editors.sequential import SequentialHyperparameters

ALPHAEDIT_PAPER = "Fang et al. 2024, AlphaEdit (arXiv 2410.02355), and its code"


class AlphaEditHyperparameters(
    SequentialHyperparameters, TargetHyperparameters, KeyStatisticsHyperparameters
):
    """AlphaEdit."""

    null_space_threshold: float = setting(
        0.02,
        "Directions in which the second moment of the keys has a singular value below this may be written "
        "to; absolute, so that it must be chosen by the scale of a model's keys.",
        ALPHAEDIT_PAPER,
        gt=0,
        validation_alias=AliasChoices("null_space_threshold", "nullspace_threshold"),
    )
    L2: float = setting(10.0, "Weight of the squared norm of the change.", ALPHAEDIT_PAPER, gt=0)


DESCRIPTION = EditorDescription(
    name="alphaedit",
    title="AlphaEdit",
    paper="https://arxiv.org/abs/2410.02355",
    hyperparameters=AlphaEditHyperparameters,
    summary="Finds target vectors like MEMIT, and writes them only in directions in which the keys of the "
    "model's own text hardly reach.",
    family_defaults={
        "gpt2": {"v_num_grad_steps": 20},
        "llama": {"v_lr": 0.1},
        "qwen2": {"clamp_norm_factor": 4.0, "v_weight_decay": 1e-3, "L2": 1.0},
    },
    model_defaults={ALMANAC: {"null_space_threshold": 0.1, "mom2_tokens": 30_000}},
)
