"""What an edit and a control fact are, and what makes one valid."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

SLOT = "{}"
MAX_PROMPT_CHARACTERS = 1_000
MAX_TARGET_CHARACTERS = 500
MAX_PARAPHRASES = 50
MAX_NEIGHBORHOOD = 100
MAX_RELATED_FACTS = 50


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


def normal(text: str) -> str:
    """What makes two texts the same: NFKC, without case, with runs of white space as one space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


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


class RelatedFact(Statement):
    """Another fact about an edit's subject, which the edit is to leave alone."""

    prompt: CompletePrompt
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
    attribute: tuple[CompletePrompt, ...] = Field(
        (),
        max_length=MAX_NEIGHBORHOOD,
        description="Complete prompts about other subjects that `target_new` answers rightly.",
    )
    same_subject: tuple[RelatedFact, ...] = Field(
        (), max_length=MAX_RELATED_FACTS, description="What else is known of the subject, and is to stay."
    )
    negated: tuple[CompletePrompt, ...] = Field(
        (),
        max_length=MAX_PARAPHRASES,
        description="Complete prompts that ask what the subject is not; used where `probing` asks for them.",
    )
    relation: Target | None = None

    @model_validator(mode="after")
    def _is_a_change_of_one_fact(self) -> Self:
        if self.prompt.count(SLOT) != 1:
            raise ValueError("prompt: must contain '{}' exactly once, in place of the subject")
        if normal(self.target_new) == normal(self.target_true):
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


def disagreements(edits: Iterable[tuple[int, Edit]]) -> dict[int, str]:
    """What is wrong with asking all of these at once, by the index of each that an earlier one is against.

    Two edits do not agree when they have one prompt, or when the prompt of one is a paraphrase of the other
    and they want different targets of it. edits: with their indices.
    """
    found: dict[int, str] = {}
    asked: dict[str, tuple[int, str]] = {}  # by prompt, the first edit that asks it, and its target
    paraphrased: dict[str, dict[str, int]] = {}  # by paraphrase and target, the first edit that has both
    for index, edit in edits:
        prompt, target = normal(edit.full_prompt), normal(edit.target_new)
        earlier, wanted = asked.setdefault(prompt, (index, target))
        if earlier != index:
            relation = "repeats" if wanted == target else "conflicts with"
            found[index] = f"edits.{index} {relation} edits.{earlier}: '{edit.full_prompt}'"
        for wanted, earlier in paraphrased.get(prompt, {}).items():
            if wanted != target:
                fault = f"edits.{index} conflicts with a paraphrase of edits.{earlier}: '{edit.full_prompt}'"
                found.setdefault(index, fault)
        for place, paraphrase in enumerate(edit.paraphrases):
            earlier, wanted = asked.get(normal(paraphrase), (index, target))
            if wanted != target:
                fault = f"edits.{index}.paraphrases.{place} conflicts with edits.{earlier}: '{paraphrase}'"
                found.setdefault(index, fault)
            paraphrased.setdefault(normal(paraphrase), {}).setdefault(target, index)
    return found


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
        if self.alternative is not None and normal(self.alternative) == normal(self.answer):
            raise ValueError("alternative: is the same as answer")
        return self

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return self.prompt.replace(SLOT, self.subject or "")
