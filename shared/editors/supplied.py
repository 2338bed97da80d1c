"""Edits that were made elsewhere: the edited model is supplied."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from shared.editors.description import EditorDescription
from shared.editors.hyperparameters import Blocks, Hyperparameters, setting, strictly_increasing
from shared.editors.layers import resolve_layers

OWN = "own: the editor is not known"
MAX_REFERENCE_CHARACTERS = 500


class SuppliedHyperparameters(Hyperparameters):
    """Where the edited model is; exactly one of `checkpoint` and `delta`."""

    checkpoint: str | None = setting(
        None,
        "The edited model as a whole: `local:DIRECTORY` under a model root, `hf:org/name@revision`, or "
        "`builtin:almanac`.",
        OWN,
        pattern=r"^(local|hf|builtin):.",
        max_length=MAX_REFERENCE_CHARACTERS,
    )
    delta: str | None = setting(
        None,
        "What was changed in the audited model, as `holdfast edit --delta-only` writes it: `local:FILE` "
        "under a model root.",
        OWN,
        pattern=r"^local:.",
        max_length=MAX_REFERENCE_CHARACTERS,
    )
    revision: str | None = setting(
        None,
        "The hub's commit of the checkpoint, or the SHA-256 over its files or of the delta's; null: as it is "
        "when the audit is planned.",
        OWN,
        min_length=1,
        max_length=64,
    )
    layers: Annotated[Blocks, Field(min_length=1), AfterValidator(strictly_increasing)] | None = setting(
        None, "Blocks that were edited, counted from 0, increasing; null: those whose weights differ.", OWN
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.checkpoint is None) == (self.delta is None):
            raise ValueError("checkpoint: give either the edited model as 'checkpoint' or its 'delta'")
        return self

    def edited_layers(self, block_count: int) -> tuple[int, ...]:
        """The blocks that were edited, as far as they are known; raises LayerNotInModel."""
        return resolve_layers(self.layers, block_count) if self.layers else ()


DESCRIPTION = EditorDescription(
    name="supplied",
    title="Supplied",
    paper="",
    hyperparameters=SuppliedHyperparameters,
    summary="Makes no edits: takes a model that was edited elsewhere, and audits it.",
    augmentable=False,
    needs_mlps=False,
)
