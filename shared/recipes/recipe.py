"""A recipe: one fine-tuning set-up, as a request states it."""

from __future__ import annotations

from math import ceil
from typing import Literal, Self

from pydantic import Field, model_validator

from shared.recipes.data import TrainingData
from shared.recipes.freezing import MAX_VARIANTS, Freeze
from shared.recipes.objectives import LossOn, Objective, Packing
from shared.recipes.updates import FullUpdate, Precision, PrefixTuningUpdate, Update, VirtualTokens
from shared.strict import Strict


class Recipe(Strict):
    """One fine-tuning set-up. `freeze` is an axis: the recipe runs once per entry."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    objective: Objective
    data: TrainingData
    loss_on: LossOn = Field(
        LossOn.COMPLETIONS,
        description="Which tokens `instructions` learns; the other objectives know no choice.",
    )
    packing: Packing | None = Field(
        None, description="How records share sequences; by default `joined` for plain text, `off` for others."
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="For `preference`: how firmly the model is held to where it started (DPO's β).",
    )
    update: Update = FullUpdate()
    freeze: tuple[Freeze, ...] = Field((Freeze.NONE,), min_length=1, max_length=MAX_VARIANTS)
    steps: int = Field(200, ge=1, le=1_000_000, description="Optimiser steps.")
    batch_size: int = Field(8, ge=1, le=4096, description="Sequences per optimiser step.")
    sequence_length: int = Field(128, ge=8, le=32_768, description="Tokens per sequence.")
    learning_rate: float = Field(1e-4, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = Field(0, ge=0, le=1_000_000)
    warmup_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Warm-up as a share of the steps, in place of `warmup_steps`.",
    )
    max_grad_norm: float = Field(1.0, gt=0)
    probe_count: int = Field(6, ge=1, le=50, description="Probes at this many log-spaced steps.")
    gradient_accumulation: int = Field(
        1,
        ge=1,
        le=4096,
        description="Parts, of equal size, that a step's sequences are computed in one after another.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them."
    )
    precision: Precision = Field(
        "auto",
        description="Of the training's forward passes: `bfloat16` by autocast; `float32`, weights included; "
        "`auto`: autocast where a bfloat16 model is held in float32 to learn, else in the dtype that it has.",
    )
    early_stop_loss: float | None = Field(
        None, gt=0, description="End as soon as the held-out loss is at most this; it is probed there."
    )
    early_stop_every: int = Field(100, ge=1, le=1_000_000, description="Steps between looks at that loss.")

    @model_validator(mode="after")
    def _axes_are_distinct(self) -> Self:
        if len(set(self.freeze)) != len(self.freeze):
            raise ValueError("'freeze' names a variant twice")
        return self

    @model_validator(mode="after")
    def _freezing_has_a_meaning(self) -> Self:
        if not self.update.changes_weights and self.freeze != (Freeze.NONE,):
            raise ValueError(f"freeze: '{self.update.kind}' changes no weights, so that none can be frozen")
        return self

    @model_validator(mode="after")
    def _virtual_tokens_stand_before_every_document(self) -> Self:
        if isinstance(self.update, VirtualTokens) and self.packing is Packing.SEPARATE:
            raise ValueError(
                f"packing: virtual tokens of '{self.update.kind}' stand before sequences, not before each of "
                "the documents that share one"
            )
        return self

    @model_validator(mode="after")
    def _run_is_possible(self) -> Self:
        if self.warmup_share is not None and self.warmup_steps:
            raise ValueError("warmup_share: give it or 'warmup_steps'")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} parts do not make up a batch of "
                f"{self.batch_size}"
            )
        if self.gradient_checkpointing and isinstance(self.update, PrefixTuningUpdate):
            raise ValueError("gradient_checkpointing: keys and values of 'prefix_tuning' would be lost by it")
        return self

    @model_validator(mode="after")
    def _loss_has_the_choice(self) -> Self:
        if self.loss_on is not LossOn.COMPLETIONS and self.objective is not Objective.INSTRUCTIONS:
            raise ValueError(f"loss_on: objective '{self.objective}' leaves no choice")
        return self

    @model_validator(mode="after")
    def _packing_fits(self) -> Self:
        if self.packing is not None and self.packing not in self.objective.packings:
            known = " or ".join(f"'{packing}'" for packing in self.objective.packings)
            raise ValueError(f"packing: objective '{self.objective}' knows {known}")
        if self.data.replay is not None and self.objective is Objective.PREFERENCE:
            raise ValueError(
                "data.replay: objective 'preference' learns from pairs, which plain text has not"
            )
        return self

    @model_validator(mode="after")
    def _records_fit_the_objective(self) -> Self:
        if self.data.records is None:
            return self
        wanted = self.objective.record_kinds
        for index, record in enumerate(self.data.records):
            if not isinstance(record, wanted):
                shapes = ", or ".join(" and ".join(kind.model_fields) for kind in wanted)
                raise ValueError(
                    f"data.records.{index}: objective '{self.objective}' needs records with {shapes}"
                )
        return self

    @property
    def chosen_packing(self) -> Packing:
        """How records share sequences."""
        return self.packing or self.objective.packings[0]

    @property
    def micro_batch(self) -> int:
        """Sequences per forward pass."""
        return self.batch_size // self.gradient_accumulation

    @property
    def warmup(self) -> int:
        """Steps that the learning rate rises over."""
        return self.warmup_steps if self.warmup_share is None else ceil(self.warmup_share * self.steps)


def log_spaced_steps(steps: int, count: int) -> tuple[int, ...]:
    """At most `count` distinct steps, evenly spaced in log from 1 to `steps`, the last included."""
    if count == 1 or steps == 1:
        return (steps,)
    return tuple(sorted({round(steps ** (index / (count - 1))) for index in range(count)}))
