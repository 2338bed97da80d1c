"""MEMIT."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import (
    MEMIT_PAPER,
    KeyStatisticsHyperparameters,
    TargetHyperparameters,
    setting,
)


class MemitHyperparameters(TargetHyperparameters, KeyStatisticsHyperparameters):
    """MEMIT."""

    mom2_update_weight: float = setting(
        15_000.0, "Weight of the preserved keys against the new ones (λ).", MEMIT_PAPER, gt=0
    )


DESCRIPTION = EditorDescription(
    name="memit",
    title="MEMIT",
    paper="https://arxiv.org/abs/2210.07229",
    hyperparameters=MemitHyperparameters,
    summary="Finds a target vector per edit and spreads it over the MLPs of several blocks, "
    "all edits in one closed-form update.",
    model_defaults={ALMANAC: {"mom2_update_weight": 200.0, "mom2_tokens": 30_000}},
)
