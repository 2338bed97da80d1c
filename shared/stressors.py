"""What besides fine-tuning is done to a model before it is deployed, as a request states it: stressors."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.edits import Edit, disagreements
from shared.strict import Strict

MAX_FURTHER_EDITS = 10_000
ANY = "*"  # in a gate rule, every stressor


class StressorBase(Strict):
    """Base of all: what the report calls it."""

    label: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$",
        description="What the report calls this stressor; by default its kind.",
    )

    @property
    def draws(self) -> bool:
        """Whether its outcome depends on a seed."""
        return False


class Int8(StressorBase):
    """Weights of the blocks' linear projections to 8 bits and back, one scale per output channel.

    s = max|w| / 127, q = round(w / s), ŵ = s·q: absmax quantisation as LLM.int8() stores weights
    (Dettmers et al. 2022, arXiv 2208.07339, section 2), without its treatment of activations.
    """

    kind: Literal["int8"] = "int8"


class Int4(StressorBase):
    """Weights of the blocks' linear projections to 4 bits and back, by groups of inputs of a channel.

    `asymmetric`: s = (max(w, 0) − min(w, 0)) / 15, z = round(−min(w, 0) / s),
    q = clamp(round(w / s) + z, 0, 15), ŵ = s·(q − z): round-to-nearest as GPTQ and AWQ compare with
    (arXiv 2210.17323, 2306.00978). `absmax`: s = max|w| / 7, q = round(w / s), ŵ = s·q.
    """

    kind: Literal["int4"] = "int4"
    group_size: int = Field(
        128,
        ge=1,
        le=1_000_000,
        description="Consecutive inputs that share a scale; the last group is shorter.",
    )
    scheme: Literal["asymmetric", "absmax"] = "asymmetric"


class Bfloat16(StressorBase):
    """The whole model cast to bfloat16, weights and computation, as when it is loaded with that dtype."""

    kind: Literal["bfloat16"] = "bfloat16"


class Float16(StressorBase):
    """The whole model cast to float16, weights and computation, as when it is loaded with that dtype."""

    kind: Literal["float16"] = "float16"


class MagnitudePruning(StressorBase):
    """In each linear projection of the blocks, the share of the weights nearest to zero becomes zero.

    Unstructured and per matrix (Han et al. 2015, arXiv 1506.02626; the baseline of Wanda, arXiv 2306.11695).
    """

    kind: Literal["magnitude_pruning"] = "magnitude_pruning"
    share: float = Field(0.5, gt=0, lt=1, description="Share of each matrix's weights that become zero.")


class Interpolation(StressorBase):
    """The edited weights moved toward the base: W = base + (1 − α)·(edited − base).

    As in WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903). What an editor keeps outside the weights stays.
    """

    kind: Literal["interpolation"] = "interpolation"
    alpha: float = Field(0.5, gt=0, le=1, description="1 gives the base model's weights back.")


class LoraMerge(StressorBase):
    """A LoRA adapter of the user's own merged into the weights (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora_merge"] = "lora_merge"
    adapter: str = Field(
        pattern=r"^local:.",
        max_length=500,
        description="`local:DIRECTORY` under a model root, as peft saves it: adapter_config.json and "
        "adapter_model.safetensors.",
    )


class FurtherEdits(StressorBase):
    """More edits, made by the same editor with the same hyperparameters on top of the first ones.

    `random`: of other subjects; `same_subject`: of subjects of the first edits, by other prompts; both from
    `edits`, else from the records in `controls.unedited` that qualify. `conflicting`: the first edits' own
    prompts with other targets, from `edits`, else each edit takes the target of the next edit of its relation
    (or prompt) that is new to it; first edits that are overwritten are meant to go, and are counted apart.
    """

    kind: Literal["further_edits"] = "further_edits"
    which: Literal["random", "same_subject", "conflicting"] = "random"
    edits: tuple[Edit, ...] = Field((), max_length=MAX_FURTHER_EDITS)
    count: int | None = Field(
        None,
        ge=1,
        le=MAX_FURTHER_EDITS,
        description="How many; null: all there are. Of `random` ones, this many are drawn by the seed, of "
        "others the first are taken.",
    )

    @model_validator(mode="after")
    def _edits_agree(self) -> Self:
        if faults := disagreements(enumerate(self.edits)):
            raise ValueError("\n".join(faults.values()))
        return self

    @property
    def draws(self) -> bool:
        """See `StressorBase.draws`."""
        return self.which == "random" and self.count is not None


Stressor = Annotated[
    Int8 | Int4 | Bfloat16 | Float16 | MagnitudePruning | Interpolation | LoraMerge | FurtherEdits,
    Field(discriminator="kind"),
]


def key_of(stressor: Stressor) -> str:
    """What the report calls the stressor."""
    return stressor.label or stressor.kind


def described(stressor: Stressor) -> str:
    """What the stressor does, in a few words with its numbers."""
    match stressor:
        case Int8():
            return "blocks' projections through int8, one scale per output"
        case Int4(group_size=size, scheme=scheme):
            return f"blocks' projections through int4, {scheme}, groups of {size}"
        case Bfloat16() | Float16():
            return f"cast to {stressor.kind}"
        case MagnitudePruning(share=share):
            return f"{share:.0%} of the blocks' projections' weights set to zero, the smallest first"
        case Interpolation(alpha=alpha):
            return f"edited weights moved {alpha:.0%} of the way to the base"
        case LoraMerge(adapter=adapter):
            return f"adapter {adapter} merged"
        case FurtherEdits(which=which, count=count):
            number = "all" if count is None else f"{count:,}"
            return f"{number} {which.replace('_', ' ')} edits more by the same editor"
