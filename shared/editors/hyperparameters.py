"""What the hyperparameters of every editor have in common."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from shared.editors.layers import LayerNotInModel, resolve_layers

AUTO = "auto"


def strictly_increasing(layers: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in itertools.pairwise(layers)):
        raise ValueError("must be in increasing order, each once")
    return layers


def none_yet(layers: Any) -> Any:
    """`auto` is kept as no layers at all, which nobody can ask for otherwise."""
    if layers == AUTO:
        return ()
    if isinstance(layers, (list, tuple)) and not layers:
        raise ValueError(f"must name a block; '{AUTO}' leaves the choice to causal tracing")
    return layers


def told_as_given(layers: tuple[int, ...]) -> tuple[int, ...] | str:
    return layers or AUTO


Blocks = Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(max_length=200)]
Layers = Annotated[
    Blocks,
    AfterValidator(strictly_increasing),
    BeforeValidator(none_yet, json_schema_input_type=Blocks | Literal["auto"]),
    PlainSerializer(told_as_given),
]


def setting(default: Any, description: str, source: str, **bounds: Any) -> Any:
    """A hyperparameter: its default, its bounds, what it means (with the unit) and where it comes from."""
    return Field(default, description=description, json_schema_extra={"source": source}, **bounds)


CORPUS_SOURCE = r"^(builtin:docstrings|file:.+)$"
MEMIT_PAPER = "Meng et al. 2023, MEMIT (arXiv 2210.07229), GPT-J"


class Hyperparameters(BaseModel):
    """Base of every editor's hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks: none, unless the editor says so."""
        return ()

    @property
    def awaits_tracing(self) -> bool:
        """Whether the blocks are to be chosen by causal tracing."""
        return False

    def traced(self, block_count: int, window: tuple[int, ...], peak: int) -> Self:
        """With the blocks that causal tracing chose, where they were left to it."""
        return self

    def untraced(self) -> Self:
        """With the blocks by the model's depth, where they were left to causal tracing."""
        return self


class LayeredHyperparameters(Hyperparameters):
    """Of an editor that writes to blocks that can be chosen."""

    layers: Layers | None = setting(
        None,
        "Blocks whose MLP down-projection is edited, counted from 0, increasing; null: by the model's depth; "
        "auto: by causal tracing on the audit's own facts.",
        MEMIT_PAPER,
    )

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks; see `resolve_layers`."""
        return resolve_layers(self.layers, block_count)

    @property
    def awaits_tracing(self) -> bool:
        """See `Hyperparameters.awaits_tracing`."""
        return self.layers == ()

    def traced(self, block_count: int, window: tuple[int, ...], peak: int) -> Self:
        """With `window`, or with `peak` alone where the editor by default writes to one block."""
        if not self.awaits_tracing:
            return self
        only_one = len(self.untraced().edited_layers(block_count)) == 1
        return self.model_copy(update={"layers": (peak,) if only_one else window})

    def untraced(self) -> Self:
        """See `Hyperparameters.untraced`."""
        return self.model_copy(update={"layers": None}) if self.awaits_tracing else self


class SingleLayerHyperparameters(LayeredHyperparameters):
    """Of an editor that by default writes to one block: the last that MEMIT would edit."""

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited in a model of `block_count` blocks."""
        resolved = resolve_layers(self.layers, block_count)
        return resolved if self.layers is not None else resolved[-1:]


class ContextHyperparameters(Hyperparameters):
    """What precedes prompts; shared by the editors that read them in several contexts."""

    context_count: int = setting(
        5, "Texts of the model's own that precede each prompt in turn, beside none.", MEMIT_PAPER, ge=0, le=50
    )
    context_length: int = setting(10, "Length of each such text, in tokens.", MEMIT_PAPER, ge=2, le=100)


class TargetHyperparameters(LayeredHyperparameters, ContextHyperparameters):
    """How the target vector of each edit is found; shared by the editors that write key-value pairs."""

    fact_token: Literal["subject_last"] = setting(
        "subject_last", "Token of the prompt at which the vector is written.", MEMIT_PAPER
    )
    v_loss_layer: int | None = setting(
        None, "Block after which the loss is read: the last, which null stands for.", MEMIT_PAPER, ge=0
    )
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

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that are edited; raises LayerNotInModel, also for a loss that is read elsewhere."""
        if self.v_loss_layer not in (None, block_count - 1):
            raise LayerNotInModel(
                f"v_loss_layer: the loss is read after the model's last block, {block_count - 1}, "
                f"not {self.v_loss_layer}"
            )
        return super().edited_layers(block_count)


class KeyStatisticsHyperparameters(Hyperparameters):
    """Over what the second moment of the keys is taken; shared by the editors that preserve old keys."""

    mom2_corpus: str | None = setting(
        None,
        "Texts over which the second moment of the keys is taken, named as training data is: "
        "`builtin:docstrings`, or `file:NAME` under a data root; null: what the model itself writes.",
        "MEMIT takes Wikipedia; own: what the model writes itself, of which nothing has to be brought",
        pattern=CORPUS_SOURCE,
        max_length=500,
    )
    mom2_tokens: int = setting(
        100_000,
        "Tokens of text over which the second moment of the keys is taken; of a corpus the first ones.",
        "own: text sampled from the model itself stands in for Wikipedia",
        ge=100,
        le=100_000_000,
    )
