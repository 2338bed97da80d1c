"""What a recipe's loss is taken over."""

from __future__ import annotations

from enum import StrEnum

from shared.recipes.records import (
    ChatRecord,
    InstructionRecord,
    PreferenceRecord,
    TextRecord,
    TrainingRecord,
)


class Objective(StrEnum):
    """What is learned from the records."""

    CAUSAL_LM = "causal_lm"  # every token of packed plain text
    INSTRUCTIONS = "instructions"  # the answers' tokens, given what stands before them
    PREFERENCE = "preference"  # the chosen answer over the rejected one (DPO, 2305.18290)

    @property
    def record_kinds(self) -> tuple[type[TrainingRecord], ...]:
        """The records that the objective can learn from."""
        return RECORD_KINDS[self]

    @property
    def packings(self) -> tuple[Packing, ...]:
        """How its records can share sequences; the first is how they do by default."""
        return PACKINGS[self]


class LossOn(StrEnum):
    """Which tokens of an instruction or a chat are learned."""

    COMPLETIONS = "completions"  # the answers and their ends
    ALL = "all"  # what is asked as well


class Packing(StrEnum):
    """How records share sequences."""

    JOINED = "joined"  # one stream cut into blocks; a token sees the documents before its own
    SEPARATE = "separate"  # documents share a sequence and never see each other
    OFF = "off"  # a sequence per record


PACKINGS: dict[Objective, tuple[Packing, ...]] = {  # the first is the default
    Objective.CAUSAL_LM: (Packing.JOINED, Packing.SEPARATE),
    Objective.INSTRUCTIONS: (Packing.OFF, Packing.SEPARATE),
    Objective.PREFERENCE: (Packing.OFF,),
}
RECORD_KINDS: dict[Objective, tuple[type[TrainingRecord], ...]] = {
    Objective.CAUSAL_LM: (TextRecord,),
    Objective.INSTRUCTIONS: (InstructionRecord, ChatRecord),
    Objective.PREFERENCE: (PreferenceRecord,),
}
