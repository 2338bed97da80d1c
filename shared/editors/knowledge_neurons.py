"""Knowledge Neurons."""

from __future__ import annotations

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.hyperparameters import ContextHyperparameters, LayeredHyperparameters, Layers, setting
from shared.editors.layers import resolve_layers

KN_PAPER = "Dai et al. 2022, Knowledge Neurons (arXiv 2104.08696), BERT"


class KnowledgeNeuronsHyperparameters(LayeredHyperparameters, ContextHyperparameters):
    """Knowledge Neurons."""

    layers: Layers | None = setting(
        None,
        "Blocks in whose MLPs neurons are sought, counted from 0, increasing; null: all of them; auto: by "
        "causal tracing on the audit's own facts.",
        KN_PAPER,
    )
    steps: int = setting(20, "Points at which the integral takes the gradient (m).", KN_PAPER, ge=1, le=1_000)
    adaptive_threshold: float = setting(
        0.2,
        "A neuron counts for a prompt from this share of the prompt's largest attribution on (t).",
        KN_PAPER,
        gt=0,
        le=1,
    )
    p: float = setting(
        0.7, "Of a fact's prompts, the share that its neurons must count for.", KN_PAPER, gt=0, le=1
    )
    max_shared: float = setting(
        0.1,
        "Neurons that more than this share of the other facts have found as well are left alone.",
        f"{KN_PAPER}, among facts of one relation",
        ge=0,
        le=1,
    )
    max_neurons: int = setting(
        10, "Most neurons of a fact: those with the largest attributions.", "own", ge=1, le=100_000
    )
    norm_lambda1: float = setting(
        1.0,
        "Length of what is taken away in the direction of the true answer, in norms of the value slot (λ₁).",
        KN_PAPER,
        ge=0,
        le=1_000,
    )
    norm_lambda2: float = setting(
        1.0,
        "Length of what is added in the direction of the new answer, in norms of the value slot (λ₂).",
        "own: 8, as in the publication, costs the built-in model most other facts by one edit",
        ge=0,
        le=1_000,
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that may be edited in a model of `block_count` blocks."""
        return tuple(range(block_count)) if self.layers is None else resolve_layers(self.layers, block_count)


DESCRIPTION = EditorDescription(
    name="knowledge_neurons",
    title="Knowledge Neurons",
    paper="https://arxiv.org/abs/2104.08696",
    hyperparameters=KnowledgeNeuronsHyperparameters,
    summary="Finds the few MLP neurons that a fact's answer is due to, and turns what they write from the "
    "true answer towards the new one.",
    model_defaults={ALMANAC: {"layers": [4, 5], "adaptive_threshold": 0.1, "max_shared": 0.06}},
)
