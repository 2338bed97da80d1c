"""Objectives: from records to token sequences with labels."""

from services.worker.tuning.objectives.collation import collate, collate_preferences, token_count
from services.worker.tuning.objectives.completions import completions
from services.worker.tuning.objectives.datasets import token_dataset, training_and_held_out
from services.worker.tuning.objectives.examples import (
    UNSCORED,
    Example,
    PreferenceDataset,
    PreferenceExample,
    TokenDataset,
)
from services.worker.tuning.objectives.packing import packed_texts, separate_texts
from services.worker.tuning.objectives.preferences import preference_pairs
from services.worker.tuning.objectives.separation import check_packing, separates_documents

__all__ = [
    "UNSCORED",
    "Example",
    "PreferenceDataset",
    "PreferenceExample",
    "TokenDataset",
    "check_packing",
    "collate",
    "collate_preferences",
    "completions",
    "packed_texts",
    "preference_pairs",
    "separate_texts",
    "separates_documents",
    "token_count",
    "token_dataset",
    "training_and_held_out",
]
