"""What an edit and a control fact are, and what makes one valid."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

SLOT = "{}"
MAX_PROMPT_CHARACTERS = 1_000
MAX_TARGET_CHARACTERS = 500
MAX_PARAPHRASES = 50
MAX_NEIGHBORHOOD = 100


def without_control_characters(text: str) -> str:
    """Refuse characters that no prompt means to hold: NUL, escapes, line breaks, lone surrogates."""
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs"}:
            raise ValueError(f"must not contain the control character U+{ord(character):04X}")
    return text


def without_slot(text: str) -> str:
    """Refuse `{}` where the subject has to be written out."""
    if SLOT in text:
        raise ValueError("must not contain '{}'; write the subject out")
    return text


Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(without_control_characters),
]
CompletePrompt = Annotated[Prompt, AfterValidator(without_slot)]
Target = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TARGET_CHARACTERS),
    AfterValidator(without_control_characters),
    AfterValidator(without_slot),
]


class Statement(BaseModel):
    """Base of everything here: immutable, and no field goes unnoticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PortabilityQuestion(Statement):
    """A question whose answer follows from the edit without restating it."""

    question: CompletePrompt
    answer: Target


class Edit(Statement):
    """One requested change of a fact. Surrounding spaces of every text are dropped."""

    prompt: Prompt = Field(description="The statement up to its object, with `{}` for the subject.")
    subject: Target
    target_new: Target
    target_true: Target
    paraphrases: tuple[CompletePrompt, ...] = Field(
        (), max_length=MAX_PARAPHRASES, description="Complete prompts that name the subject."
    )
    neighborhood: tuple[CompletePrompt, ...] = Field(
        (), max_length=MAX_NEIGHBORHOOD, description="Complete prompts that `target_true` answers rightly."
    )
    portability: tuple[PortabilityQuestion, ...] = Field((), max_length=MAX_PARAPHRASES)
    relation: Target | None = None

    @model_validator(mode="after")
    def _is_a_change_of_one_fact(self) -> Self:
        if self.prompt.count(SLOT) != 1:
            raise ValueError("prompt: must contain '{}' exactly once, in place of the subject")
        if self.target_new.casefold() == self.target_true.casefold():
            raise ValueError("target_new: is the same as target_true")
        asked = {" ".join(self.full_prompt.split())}
        for index, paraphrase in enumerate(self.paraphrases):
            if " ".join(paraphrase.split()) in asked:
                raise ValueError(f"paraphrases.{index}: repeats the prompt or an earlier paraphrase")
            asked.add(" ".join(paraphrase.split()))
            if self.subject not in paraphrase:
                raise ValueError(f"paraphrases.{index}: does not contain the subject '{self.subject}'")
        return self

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return self.prompt.replace(SLOT, self.subject)


class ControlFact(Statement):
    """A fact that nobody edits and that the base model is expected to answer right."""

    prompt: Prompt = Field(description="Complete, or with `{}` for `subject`.")
    subject: Target | None = None
    answer: Target
    alternative: Target | None = Field(None, description="A wrong answer of the same kind.")
    relation: Target | None = None

    @model_validator(mode="after")
    def _slot_and_subject_agree(self) -> Self:
        slots = self.prompt.count(SLOT)
        if slots > 1 or (slots == 1 and self.subject is None):
            raise ValueError("prompt: may contain '{}' once, and then needs a subject")
        if self.alternative is not None and self.alternative.casefold() == self.answer.casefold():
            raise ValueError("alternative: is the same as answer")
        return self

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return self.prompt.replace(SLOT, self.subject or "")
