"""What an audit asks its models, beyond every fact's own prompt."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.measurement import ProbeKind
from shared.strict import Strict

# All that is asked only where an edit says what to ask.
DEFAULT_KINDS = (
    ProbeKind.REWRITE,
    ProbeKind.PARAPHRASE,
    ProbeKind.NEIGHBORHOOD,
    ProbeKind.ATTRIBUTE,
    ProbeKind.PORTABILITY,
    ProbeKind.SAME_SUBJECT,
)


class Probing(Strict):
    """Which probes run, and what else the models are asked at the ends of the arms."""

    kinds: tuple[ProbeKind, ...] = Field(
        DEFAULT_KINDS,
        min_length=1,
        description="`distracted` and `negated` are asked of edits and of control facts alike; the others "
        "where edits have such prompts.",
    )
    contains_tokens: Annotated[int, Field(ge=1, le=200)] | None = Field(
        20,
        description="In the mode `contains` an answer must be among so many greedily generated tokens. Only "
        "the facts' own prompts are continued, and not while a fine-tuning is under way. None: not scored.",
    )
    fluency: bool = Field(
        False,
        description="Also have the models write freely, for the entropy of their n-grams, and measure their "
        "perplexity on plain English.",
    )

    @model_validator(mode="after")
    def _kinds_hold_the_facts_own_prompts(self) -> Self:
        if ProbeKind.REWRITE not in self.kinds:
            raise ValueError("kinds: 'rewrite' is missing, on which every result rests")
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds: one is named twice")
        return self
