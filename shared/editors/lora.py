"""LoRA."""

from __future__ import annotations

from typing import Literal

from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.fine_tuning import FineTuningHyperparameters
from shared.editors.hyperparameters import LayeredHyperparameters, Layers, setting
from shared.editors.layers import resolve_layers

LORA_PAPER = "Hu et al. 2021, LoRA (arXiv 2106.09685)"
LORA_EDITING = "Zhang et al. 2024 (arXiv 2401.01286), its code"


class LoraHyperparameters(LayeredHyperparameters, FineTuningHyperparameters):
    """LoRA."""

    layers: Layers | None = setting(
        None, "Blocks that get adapters, counted from 0, increasing; null: all of them.", LORA_EDITING
    )
    targets: Literal["attention", "mlp", "all"] = setting(
        "attention", "Whose linear projections get adapters, in each of those blocks.", LORA_PAPER
    )
    rank: int = setting(8, "Rank of each adapter.", LORA_EDITING, ge=1, le=1_024)
    alpha: float = setting(
        32.0, "An adapter's output is scaled by alpha over rank.", LORA_EDITING, gt=0, le=10_000
    )
    num_steps: int = setting(70, "Passes over the edits.", LORA_EDITING, ge=1, le=1_000)
    lr: float = setting(5e-3, "Learning rate of Adam.", LORA_EDITING, gt=0, le=1)
    seed: int = setting(0, "Of the adapters' first weights.", "own", ge=0, lt=2**31)

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that get adapters in a model of `block_count` blocks."""
        return tuple(range(block_count)) if self.layers is None else resolve_layers(self.layers, block_count)


DESCRIPTION = EditorDescription(
    name="lora",
    title="LoRA",
    paper="https://arxiv.org/abs/2106.09685",
    hyperparameters=LoraHyperparameters,
    summary="Trains low-rank adapters on every token of the targets, and merges them into the weights.",
    model_defaults={ALMANAC: {"layers": [2], "targets": "mlp", "rank": 64, "alpha": 64.0, "lr": 0.001}},
)
