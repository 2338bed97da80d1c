"""What a recipe changes of a model: every weight, some of them, or something small beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.strict import Strict

Targets = Literal["all", "attention", "mlp"]
DeployedDtype = Literal["model", "float32"]
Precision = Literal["auto", "float32", "bfloat16"]


class AnyUpdate(Strict):
    """What every update can be told."""

    deployed_dtype: DeployedDtype = Field(
        "model",
        description="The dtype that probes see the tuned weights in: `model` rounds them to the model's own, "
        "`float32` keeps what was learnt as it is. The two differ only for models in half precision.",
    )

    @property
    def changes_weights(self) -> bool:
        """Whether it changes the function of the model's weights, so that freezing some has a meaning."""
        return True


class AdapterUpdate(AnyUpdate):
    """Adapters beside linear projections, found by the model's anatomy; the model's own weights stay."""

    targets: Targets = Field(
        "all", description="Which projections of the unfrozen blocks get adapters: `all`, `attention`, `mlp`."
    )


class MergeableUpdate(AdapterUpdate):
    """Adapters that can be added into the weights."""

    merged: bool = Field(
        False,
        description="Whether probes see the adapters merged into the weights, rounded to the deployed dtype, "
        "instead of beside them. Tuning itself always goes on with unmerged ones.",
    )


class LowRank(Strict):
    """The two factors of an adapter (LoRA, Hu et al., 2106.09685)."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of each adapter.")
    alpha: float = Field(
        32.0,
        gt=0,
        description="The adapter's output is scaled by alpha / rank; in `rslora` by alpha / √rank.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")


class VirtualTokens(AnyUpdate):
    """Learnt tokens before every sequence, in training and at probing; no weight of the model changes."""

    virtual_tokens: int = Field(
        20, ge=1, le=1024, description="How many; they take as many of the model's positions."
    )

    @property
    def changes_weights(self) -> bool:
        """See `AnyUpdate.changes_weights`."""
        return False


class FullUpdate(AnyUpdate):
    """Every weight that is not frozen learns."""

    kind: Literal["full"] = "full"


class BitFitUpdate(AnyUpdate):
    """Every bias that is not frozen learns, and nothing else (BitFit, Ben Zaken et al., 2106.10199)."""

    kind: Literal["bitfit"] = "bitfit"


class LoraUpdate(MergeableUpdate, LowRank):
    """Low-rank adapters on linear projections of the unfrozen blocks (LoRA, Hu et al., 2106.09685)."""

    kind: Literal["lora"] = "lora"


class RsLoraUpdate(MergeableUpdate, LowRank):
    """LoRA scaled by alpha / √rank, stable at high ranks (rsLoRA, Kalajdzievski, 2312.03732)."""

    kind: Literal["rslora"] = "rslora"


class DoraUpdate(MergeableUpdate, LowRank):
    """LoRA on the direction of each weight beside a learnt magnitude (DoRA, Liu et al., 2402.09353)."""

    kind: Literal["dora"] = "dora"


class Ia3Update(MergeableUpdate):
    """Learnt scales of keys, values and the MLP's inner state (IA³, Liu et al., 2205.05638)."""

    kind: Literal["ia3"] = "ia3"


class QloraUpdate(AdapterUpdate, LowRank):
    """LoRA beside projections that are held in 4-bit NormalFloat (QLoRA, Dettmers et al., 2305.14314).

    Needs a CUDA device and the package bitsandbytes. Probes see the quantised weights with the adapters
    beside them.
    """

    kind: Literal["qlora"] = "qlora"
    double_quantisation: bool = Field(
        True, description="Whether the scales of the 4-bit weights are quantised as well."
    )


class PromptTuningUpdate(VirtualTokens):
    """Learnt embeddings before every sequence (prompt tuning, Lester et al., 2104.08691)."""

    kind: Literal["prompt_tuning"] = "prompt_tuning"


class PrefixTuningUpdate(VirtualTokens):
    """Learnt keys and values before every sequence, in every block (Li & Liang, 2101.00190)."""

    kind: Literal["prefix_tuning"] = "prefix_tuning"


Update = Annotated[
    FullUpdate
    | BitFitUpdate
    | LoraUpdate
    | RsLoraUpdate
    | DoraUpdate
    | Ia3Update
    | QloraUpdate
    | PromptTuningUpdate
    | PrefixTuningUpdate,
    Field(discriminator="kind"),
]
