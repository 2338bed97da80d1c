"""WISE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import ContextHyperparameters, setting
from shared.editors.late_layer import LateLayerHyperparameters

WISE_PAPER = "Wang et al. 2024, WISE (arXiv 2405.14768), Llama-2-7B"
MARGIN_UNIT = "Euclidean distance between what the two memories put out at a token"


class WiseHyperparameters(LateLayerHyperparameters, ContextHyperparameters):
    """WISE."""

    PUBLISHED_LAYER: ClassVar[Mapping[int, int]] = {28: 21, 32: 27}

    n_iter: int = setting(70, "Updates of each shard, at most.", WISE_PAPER, ge=1, le=10_000)
    edit_lr: float = setting(
        1e-3,
        "Learning rate of Adam on the side memory.",
        "own: the publication descends by gradients alone, one edit at a time, with a rate of 1",
        gt=0,
        le=100,
    )
    norm_constraint: float = setting(1.0, "Largest change of any one weight.", WISE_PAPER, gt=0, le=100)
    edits_per_shard: int = setting(
        500, "Edits that are learned together, in weights of their own.", WISE_PAPER, ge=1, le=1_000_000
    )
    mask_ratio: float = setting(
        0.2, "Share of the weights that a shard may change, drawn by chance.", WISE_PAPER, gt=0, le=1
    )
    density: float = setting(
        0.53,
        "Share of the weights, those changed most, that a shard keeps in merging.",
        WISE_PAPER,
        gt=0,
        le=1,
    )
    alpha: float = setting(5.0, f"Most that irrelevant tokens shall differ: {MARGIN_UNIT}.", WISE_PAPER, ge=0)
    beta: float = setting(20.0, f"Least that edits shall differ: {MARGIN_UNIT}.", WISE_PAPER, ge=0)
    gamma: float = setting(
        10.0, f"Least that edits shall differ more than irrelevant tokens: {MARGIN_UNIT}.", WISE_PAPER, ge=0
    )
    act_ratio: float = setting(
        0.88,
        "How far the memories must differ for the side memory to be used: share of the least of any edit.",
        WISE_PAPER,
        gt=0,
        le=1,
    )
    irrelevant_count: int = setting(
        50,
        "Texts of the model's own that stand for all that the edits have nothing to do with.",
        "own: the publication takes questions of a data set",
        ge=1,
        le=10_000,
    )
    irrelevant_length: int = setting(
        30, "Length of each such text, in tokens.", "own: the publication takes questions", ge=2, le=1_000
    )


DESCRIPTION = EditorDescription(
    name="wise",
    title="WISE",
    paper="https://arxiv.org/abs/2405.14768",
    hyperparameters=WiseHyperparameters,
    summary="Keeps a second copy of one late MLP's down-projection, trained on the edits, and uses it at the "
    "tokens where the two differ much. No weight changes.",
    family_defaults={"gptj": {"alpha": 15.0, "beta": 40.0, "gamma": 20.0}},
    model_defaults={
        ALMANAC: {
            "layers": [5],
            "n_iter": 150,
            "edit_lr": 0.005,
            "mask_ratio": 1.0,
            "density": 1.0,
            "beta": 40.0,
            "gamma": 30.0,
            "act_ratio": 0.8,
            "context_count": 0,
        }
    },
    in_weights=False,
)
