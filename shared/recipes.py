"""A recipe: one fine-tuning set-up, as a request states it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_RECORDS = 50_000
Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class Strict(BaseModel):
    """Immutable, and nothing unknown is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Objective(StrEnum):
    """What the loss is taken over."""

    CAUSAL_LM = "causal_lm"  # every token of packed plain text
    INSTRUCTIONS = "instructions"  # the completion's tokens, given the prompt


class Freeze(StrEnum):
    """Which decoder blocks keep their weights while tuning."""

    NONE = "none"
    EDITED = "edited"  # the blocks that the editor wrote to, whole


class TextRecord(Strict):
    """A piece of plain text, for `causal_lm`."""

    text: Text


class InstructionRecord(Strict):
    """A prompt and the completion to learn, for `instructions`."""

    prompt: Text
    completion: Text


class TrainingData(Strict):
    """Where the records come from: exactly one of `records` (inline) and `source`.

    `source` is `builtin:docstrings` (English from the standard library's own documentation) or
    `file:NAME` under one of the operator's data roots: `.txt` (a record per blank-line paragraph),
    `.json` or `.jsonl` (`text`, `prompt`+`completion`, or `instruction`/`input`/`output`).
    """

    records: tuple[TextRecord | InstructionRecord, ...] | None = Field(None, max_length=MAX_RECORDS)
    source: Annotated[str, Field(pattern=r"^(builtin:docstrings|file:.+)$", max_length=500)] | None = None
    limit: int | None = Field(
        None, ge=1, le=100_000_000, description="Use at most this many records, from the first on."
    )
    held_out_share: float = Field(
        0.1, gt=0, lt=1, description="Share of records kept out of training to measure the task's loss."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.records is None) == (self.source is None):
            raise ValueError("give exactly one of 'records' and 'source'")
        if self.records is not None and len(self.records) < 2:
            raise ValueError("at least 2 records are needed: one to train on and one held out")
        return self


class FullUpdate(Strict):
    """Every weight that is not frozen learns."""

    kind: Literal["full"] = "full"


class LoraUpdate(Strict):
    """Low-rank adapters on every linear projection of the unfrozen blocks (Hu et al., 2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1, le=1024, description="Rank of each adapter.")
    alpha: float = Field(32.0, gt=0, description="The adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")


Update = Annotated[FullUpdate | LoraUpdate, Field(discriminator="kind")]


class Recipe(Strict):
    """One fine-tuning set-up. `freeze` is an axis: the recipe runs once per entry."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    objective: Objective
    data: TrainingData
    update: Update = FullUpdate()
    freeze: tuple[Freeze, ...] = Field((Freeze.NONE,), min_length=1, max_length=len(Freeze))
    steps: int = Field(200, ge=1, le=1_000_000, description="Optimiser steps.")
    batch_size: int = Field(8, ge=1, le=4096, description="Sequences per optimiser step.")
    sequence_length: int = Field(128, ge=8, le=32_768, description="Tokens per sequence.")
    learning_rate: float = Field(1e-4, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = Field(0, ge=0, le=1_000_000)
    max_grad_norm: float = Field(1.0, gt=0)
    probe_count: int = Field(6, ge=1, le=50, description="Probes at this many log-spaced steps.")

    @model_validator(mode="after")
    def _axes_are_distinct(self) -> Self:
        if len(set(self.freeze)) != len(self.freeze):
            raise ValueError("'freeze' names a variant twice")
        return self

    @model_validator(mode="after")
    def _records_fit_the_objective(self) -> Self:
        if self.data.records is None:
            return self
        wanted = TextRecord if self.objective is Objective.CAUSAL_LM else InstructionRecord
        for index, record in enumerate(self.data.records):
            if not isinstance(record, wanted):
                fields = " and ".join(wanted.model_fields)
                raise ValueError(
                    f"data.records.{index}: objective '{self.objective}' needs records with {fields}"
                )
        return self


def log_spaced_steps(steps: int, count: int) -> tuple[int, ...]:
    """At most `count` distinct steps, evenly spaced in log from 1 to `steps`, the last included."""
    if count == 1 or steps == 1:
        return (steps,)
    return tuple(sorted({round(steps ** (index / (count - 1))) for index in range(count)}))
