"""Editing in batches that follow one another, each on the model that the ones before it left."""

from __future__ import annotations

import itertools
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.editors.hyperparameters import Hyperparameters, setting

OWN = "own: the publications give the edits in batches"

Bound = Annotated[int, Field(ge=0, le=10_000_000)]


class BatchesDoNotFit(ValueError):
    """Batches that do not cover the edits there are."""


class SequentialHyperparameters(Hyperparameters):
    """How edits are cut into batches; shared by the editors for which their order matters."""

    batches: tuple[tuple[Bound, Bound], ...] | None = setting(
        None,
        "Batches as ranges of edits, [first, one past the last], which cover all of them in order; null: by "
        "batch_size. Where edits are augmented, their paraphrases are edits of their own, after all others.",
        OWN,
        min_length=1,
        max_length=10_000,
    )
    batch_size: int | None = setting(
        None, "Edits per batch, where batches does not say; null: all at once.", OWN, ge=1, le=10_000_000
    )

    @model_validator(mode="after")
    def _batches_follow_one_another(self) -> Self:
        if self.batches is None:
            return self
        if any(first >= end for first, end in self.batches):
            raise ValueError("batches: none may be empty")
        bounds = [(0, 0), *self.batches]
        if any(before[1] != after[0] for before, after in itertools.pairwise(bounds)):
            raise ValueError("batches: must start at 0, each where the one before it ends")
        return self

    def ranges(self, edits: int) -> tuple[tuple[int, int], ...]:
        """(first, end) of each batch of so many edits; raises BatchesDoNotFit unless they cover all."""
        if self.batches is None:
            size = self.batch_size or edits
            return tuple((first, min(first + size, edits)) for first in range(0, edits, size))
        if self.batches[-1][1] != edits:
            raise BatchesDoNotFit(f"batches: they cover {self.batches[-1][1]} edits of {edits}")
        return self.batches
