"""FT-L."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.fine_tuning import FT_VALUES, FineTuningHyperparameters
from shared.editors.hyperparameters import SingleLayerHyperparameters, setting

FT_PAPER = f"Zhu et al. 2020 (arXiv 2012.00363); {FT_VALUES}"


class ConstrainedFineTuningHyperparameters(SingleLayerHyperparameters, FineTuningHyperparameters):
    """FT-L."""

    norm_constraint: float = setting(5e-4, "Largest change of any one weight.", FT_PAPER, gt=0, le=100)


DESCRIPTION = EditorDescription(
    name="ft_l",
    title="FT-L",
    paper="https://arxiv.org/abs/2012.00363",
    hyperparameters=ConstrainedFineTuningHyperparameters,
    summary="Fine-tunes one MLP down-projection on the edits, no weight moving further than a bound.",
    model_defaults={ALMANAC: {"layers": [2], "lr": 0.01, "norm_constraint": 0.05}},
)
