"""Recipes: data, objective, update and freezing of one fine-tuning, as a request states them."""

from shared.recipes.data import MAX_RECORDS, Replay, TrainingData
from shared.recipes.freezing import Freeze
from shared.recipes.objectives import LossOn, Objective, Packing
from shared.recipes.recipe import Recipe, log_spaced_steps
from shared.recipes.records import (
    ChatRecord,
    InstructionRecord,
    Message,
    PreferenceRecord,
    Role,
    TextRecord,
    TrainingRecord,
)
from shared.recipes.updates import (
    AdapterUpdate,
    AnyUpdate,
    BitFitUpdate,
    DoraUpdate,
    FullUpdate,
    Ia3Update,
    LoraUpdate,
    MergeableUpdate,
    PrefixTuningUpdate,
    PromptTuningUpdate,
    QloraUpdate,
    RsLoraUpdate,
    Update,
    VirtualTokens,
)

__all__ = [
    "MAX_RECORDS",
    "AdapterUpdate",
    "AnyUpdate",
    "BitFitUpdate",
    "ChatRecord",
    "DoraUpdate",
    "Freeze",
    "FullUpdate",
    "Ia3Update",
    "InstructionRecord",
    "LoraUpdate",
    "LossOn",
    "MergeableUpdate",
    "Message",
    "Objective",
    "Packing",
    "PreferenceRecord",
    "PrefixTuningUpdate",
    "PromptTuningUpdate",
    "QloraUpdate",
    "Recipe",
    "Replay",
    "Role",
    "RsLoraUpdate",
    "TextRecord",
    "TrainingData",
    "TrainingRecord",
    "Update",
    "VirtualTokens",
    "log_spaced_steps",
]
