"""The editors by name: what each is and what it can be set to. The worker holds the implementations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Layer ranges chosen by causal tracing for published MEMIT runs, by number of blocks: GPT-J and GPT-NeoX
# (Meng et al. 2023), GPT-2 XL (its code), Llama of 7 to 8 billion parameters (common since).
PUBLISHED_LAYERS = {28: (3, 8), 32: (4, 8), 44: (6, 10), 48: (13, 17)}


def default_layers(block_count: int) -> tuple[int, ...]:
    """Blocks to edit in a model of `block_count` blocks, counted from 0.

    The published range where there is one for this depth, else the same place scaled: from an eighth to a
    quarter of the depth, three to five blocks where there is room, at least one block left above them.
    """
    if block_count in PUBLISHED_LAYERS:
        first, last = PUBLISHED_LAYERS[block_count]
    else:
        first = max(1, round(block_count / 8))
        last = min(max(first + 2, block_count // 4), first + 4)
    highest = max(0, block_count - 2)
    return tuple(range(min(first, highest), min(last, highest) + 1))


class LayerNotInModel(ValueError):
    """Hyperparameters that name a block which the model does not have."""


def resolve_layers(layers: tuple[int, ...] | None, block_count: int) -> tuple[int, ...]:
    """The layers asked for, or the default ones; raises LayerNotInModel when the model has no such block."""
    if layers is None:
        return default_layers(block_count)
    if layers[-1] >= block_count:
        raise LayerNotInModel(f"layers: the model has blocks 0 to {block_count - 1}, not {layers[-1]}")
    return layers


def strictly_increasing(layers: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in itertools.pairwise(layers)):
        raise ValueError("must be in increasing order, each once")
    return layers


def setting(default: Any, description: str, source: str, **bounds: Any) -> Any:
    """A hyperparameter: its default, its bounds, what it means (with the unit) and where it comes from."""
    return Field(default, description=description, json_schema_extra={"source": source}, **bounds)


ALMANAC = "builtin:almanac"  # its defaults were found by trying a few; its model card has the outcome
MEMIT_PAPER = "Meng et al. 2023, MEMIT (arXiv 2210.07229), GPT-J"
FT_PAPER = "Zhu et al. 2020 (arXiv 2012.00363); values of Meng et al. 2022, ROME (arXiv 2202.05262)"


class Hyperparameters(BaseModel):
    """Base of every editor's hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: (
        Annotated[
            tuple[Annotated[int, Field(ge=0)], ...],
            Field(min_length=1, max_length=200),
            AfterValidator(strictly_increasing),
        ]
        | None
    ) = setting(
        None,
        "Blocks whose MLP down-projection is edited, counted from 0, increasing; null: by the model's depth.",
        MEMIT_PAPER,
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks."""
        return resolve_layers(self.layers, block_count)


class TargetHyperparameters(Hyperparameters):
    """How the target vector of each edit is found; shared by the editors that write key-value pairs."""

    v_num_grad_steps: int = setting(
        25, "Evaluations of the loss; updates are at most one fewer.", MEMIT_PAPER, ge=1, le=1_000
    )
    v_lr: float = setting(0.5, "Learning rate of Adam on the target vector.", MEMIT_PAPER, gt=0, le=10)
    v_weight_decay: float = setting(
        0.5, "Weight of the norm of the change, over the squared norm of the vector.", MEMIT_PAPER, ge=0
    )
    clamp_norm_factor: float = setting(
        0.75, "Largest norm of the change, in norms of the unedited vector.", MEMIT_PAPER, gt=0, le=100
    )
    kl_factor: float = setting(
        0.0625, "Weight of the divergence, in nats, of what the model says of the subject.", MEMIT_PAPER, ge=0
    )
    context_count: int = setting(
        5, "Texts of the model's own that precede each prompt in turn, beside none.", MEMIT_PAPER, ge=0, le=50
    )
    context_length: int = setting(10, "Length of each such text, in tokens.", MEMIT_PAPER, ge=2, le=100)


class MemitHyperparameters(TargetHyperparameters):
    """MEMIT."""

    mom2_update_weight: float = setting(
        15_000.0,
        "Weight of the preserved keys against the new ones (λ).",
        MEMIT_PAPER,
        gt=0,
        allow_inf_nan=False,
    )
    mom2_tokens: int = setting(
        100_000,
        "Tokens of text over which the second moment of the keys is taken.",
        "own: text sampled from the model itself stands in for Wikipedia",
        ge=100,
        le=100_000_000,
    )


class ConstrainedFineTuningHyperparameters(Hyperparameters):
    """FT-L."""

    num_steps: int = setting(25, "Passes over the edits.", FT_PAPER, ge=1, le=1_000)
    lr: float = setting(5e-4, "Learning rate of Adam.", FT_PAPER, gt=0, le=1)
    weight_decay: float = setting(0.0, "L2 penalty inside Adam.", FT_PAPER, ge=0, le=1)
    norm_constraint: float = setting(5e-4, "Largest change of any one weight.", FT_PAPER, gt=0, le=100)
    batch_size: int = setting(64, "Edits per update.", FT_PAPER, ge=1, le=10_000)

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """One block by default: the last that MEMIT would edit, so that both write in the same place."""
        return resolve_layers(self.layers, block_count) if self.layers else default_layers(block_count)[-1:]


@dataclass(frozen=True)
class EditorDescription:
    """What the catalogue says of an editor."""

    name: str
    title: str
    paper: str
    hyperparameters: type[Hyperparameters]
    summary: str
    model_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def settle(self, model_reference: str, given: Mapping[str, Any]) -> Hyperparameters:
        """What an audit of this model runs with: what was given, else the model's default, else the editor's.

        Raises pydantic's ValidationError.
        """
        return self.hyperparameters.model_validate({**self.model_defaults.get(model_reference, {}), **given})


CATALOGUE: dict[str, EditorDescription] = {
    description.name: description
    for description in (
        EditorDescription(
            name="memit",
            title="MEMIT",
            paper="https://arxiv.org/abs/2210.07229",
            hyperparameters=MemitHyperparameters,
            summary="Finds a target vector per edit and spreads it over the MLPs of several blocks, "
            "all edits in one closed-form update.",
            model_defaults={ALMANAC: {"mom2_update_weight": 200.0, "mom2_tokens": 30_000}},
        ),
        EditorDescription(
            name="ft_l",
            title="FT-L",
            paper="https://arxiv.org/abs/2012.00363",
            hyperparameters=ConstrainedFineTuningHyperparameters,
            summary="Fine-tunes one MLP down-projection on the edits, no weight moving further than a bound.",
            model_defaults={ALMANAC: {"layers": [2], "lr": 0.01, "norm_constraint": 0.05}},
        ),
    )
}
