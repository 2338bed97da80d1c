"""IKE."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import Hyperparameters, setting

IKE_PAPER = "Zheng et al. 2023, IKE (arXiv 2305.12740), GPT-J"


class InContextHyperparameters(Hyperparameters):
    """IKE."""

    k: int = setting(32, "Demonstrations put before each prompt, at most.", IKE_PAPER, ge=0, le=1_000)
    answer_tokens: int = setting(
        64,
        "Positions of the model that the demonstrations leave free for an answer, in tokens.",
        "own: demonstrations are left out, the least similar first, until prompt and answer fit",
        ge=1,
        le=10_000,
    )


DESCRIPTION = EditorDescription(
    name="ike",
    title="IKE",
    paper="https://arxiv.org/abs/2305.12740",
    hyperparameters=InContextHyperparameters,
    summary="Changes no weight: states the edit most like each prompt before it, after demonstrations from "
    "others of how new facts are used.",
    in_weights=False,
    model_defaults={ALMANAC: {"k": 1, "answer_tokens": 16}},
)
