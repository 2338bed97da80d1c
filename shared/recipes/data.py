"""Where a recipe's records come from."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.recipes.records import TrainingRecord
from shared.strict import Strict

MAX_RECORDS = 50_000

Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]

Source = Annotated[
    str, Field(pattern=r"^(builtin:docstrings|(file|url):.+|training_set:[0-9a-f]{32})$", max_length=2_000)
]


class Replay(Strict):
    """Plain text mixed into training, so that the model goes on seeing what it was pre-trained on.

    Never part of what is held out; text that is held out is left out of it.
    """

    share: float = Field(gt=0, le=0.9, description="Share of the training sequences that are this text.")
    source: Source = "builtin:docstrings"
    limit: int | None = Field(None, ge=1, le=100_000_000, description="Use at most this many records.")


class TrainingData(Strict):
    """Where the records come from: exactly one of `records` (inline) and `source`.

    `source` is `builtin:docstrings` (English from the standard library's own documentation), `file:NAME`
    under one of the operator's data roots, `training_set:ID` of an upload, or `url:URL` where the operator
    allows it. Files are `.jsonl`, `.json` (a list), `.csv`, `.parquet` or `.txt` (a record per paragraph),
    each also as `.gz`; docs/recipes.md has the shapes of their records.
    """

    records: tuple[TrainingRecord, ...] | None = Field(None, max_length=MAX_RECORDS)
    source: Source | None = None
    limit: int | None = Field(
        None, ge=1, le=100_000_000, description="Use at most this many records, from the first on."
    )
    held_out_share: float = Field(
        0.1, gt=0, lt=1, description="Share of records kept out of training to measure the task's loss."
    )
    labels: tuple[Label, ...] | None = Field(
        None,
        min_length=2,
        max_length=1_000,
        description="Names of the classes that integer labels stand for.",
    )
    without_subjects: bool = Field(
        False,
        description="Leave out records, replayed ones too, that name the subject of an edit or control.",
    )
    replay: Replay | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.records is None) == (self.source is None):
            raise ValueError("give exactly one of 'records' and 'source'")
        if self.records is not None and len(self.records) < 2:
            raise ValueError("at least 2 records are needed: one to train on and one held out")
        return self
