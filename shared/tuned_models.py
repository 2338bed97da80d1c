"""Models that somebody has edited and fine-tuned already, and that an audit only probes."""

from __future__ import annotations

from pydantic import Field

from shared.strict import Strict

REFERENCE = r"^(local|hf|builtin):."
MAX_REFERENCE_CHARACTERS = 500


class TunedModel(Strict):
    """A fine-tuning that was done elsewhere: what came of the edited model, and of the base.

    In the report its name stands where that of a recipe does.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    edited_tuned: str = Field(
        pattern=REFERENCE,
        max_length=MAX_REFERENCE_CHARACTERS,
        description="The edited model after its fine-tuning: `local:DIRECTORY` under a model root or "
        "`hf:org/name@revision`, safetensors, of the audited model's architecture.",
    )
    base_tuned: str | None = Field(
        None,
        pattern=REFERENCE,
        max_length=MAX_REFERENCE_CHARACTERS,
        description="The base model after the same fine-tuning; null: the arm `base→tuned`, and with it the "
        "interaction, is not measured.",
    )
    editor: str | None = Field(
        None,
        description="Which of the audit's editors made the edits (its label or name; most often `supplied`), "
        "run with one count of paraphrases; null: the only one there is.",
    )
