"""GRACE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import setting
from shared.editors.late_layer import LateLayerHyperparameters

GRACE_PAPER = "Hartvigsen et al. 2023, GRACE (arXiv 2211.11031), GPT-2 XL"


class GraceHyperparameters(LateLayerHyperparameters):
    """GRACE."""

    PUBLISHED_LAYER: ClassVar[Mapping[int, int]] = {48: 35}

    eps: float = setting(
        1.0, "First radius of a key: Euclidean distance between inputs of the MLP.", GRACE_PAPER, gt=0, le=1e6
    )
    n_iter: int = setting(
        100, "Evaluations of the loss; updates are at most one fewer.", GRACE_PAPER, ge=1, le=10_000
    )
    edit_lr: float = setting(1.0, "Learning rate of Adam on the values.", GRACE_PAPER, gt=0, le=100)


DESCRIPTION = EditorDescription(
    name="grace",
    title="GRACE",
    paper="https://arxiv.org/abs/2211.11031",
    hyperparameters=GraceHyperparameters,
    summary="Keeps a codebook beside one late MLP: near the key of an edit, a learned value stands in for "
    "what the MLP puts out. No weight changes.",
    in_weights=False,
    model_defaults={ALMANAC: {"layers": [5], "eps": 7.0}},
)
