"""FT."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.fine_tuning import FineTuningHyperparameters
from shared.editors.hyperparameters import SingleLayerHyperparameters


class UnconstrainedFineTuningHyperparameters(SingleLayerHyperparameters, FineTuningHyperparameters):
    """FT."""


DESCRIPTION = EditorDescription(
    name="ft",
    title="FT",
    paper="https://arxiv.org/abs/2202.05262",
    hyperparameters=UnconstrainedFineTuningHyperparameters,
    summary="Fine-tunes one MLP down-projection on the edits, with nothing to hold it back.",
    model_defaults={ALMANAC: {"layers": [2], "lr": 0.0025, "num_steps": 40}},
)
