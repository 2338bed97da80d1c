"""R-ROME."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.rome import FAMILY_DEFAULTS, RomeHyperparameters


class RRomeHyperparameters(RomeHyperparameters):
    """R-ROME: those of ROME."""


DESCRIPTION = EditorDescription(
    name="r_rome",
    title="R-ROME",
    paper="https://arxiv.org/abs/2403.07175",
    hyperparameters=RRomeHyperparameters,
    summary="ROME with the same key, averaged over contexts, wherever one is needed, so that edits made one "
    "after another do not break the model.",
    family_defaults=FAMILY_DEFAULTS,
    model_defaults={ALMANAC: {"layers": [1], "context_count": 5, "mom2_tokens": 30_000}},
)
