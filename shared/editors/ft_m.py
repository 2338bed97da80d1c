"""FT-M."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.fine_tuning import FineTuningHyperparameters
from shared.editors.hyperparameters import SingleLayerHyperparameters


class MaskedFineTuningHyperparameters(SingleLayerHyperparameters, FineTuningHyperparameters):
    """FT-M."""


DESCRIPTION = EditorDescription(
    name="ft_m",
    title="FT-M",
    paper="https://arxiv.org/abs/2401.01286",
    hyperparameters=MaskedFineTuningHyperparameters,
    summary="Fine-tunes one MLP down-projection on every token of the targets, the prompts masked out.",
    model_defaults={ALMANAC: {"layers": [2], "lr": 0.0025, "num_steps": 40}},
)
